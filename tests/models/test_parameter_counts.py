"""The benchmark's parameter counts, by layer arithmetic and by the figures that the literature prints."""

from pathlib import Path

import pytest
from mmengine import Config
from mmpretrain.registry import MODELS

from kd_mm.hooks.report import complexity

CONFIGS = Path(__file__).parents[2] / "configs" / "classification"


def conv(inputs: int, outputs: int, kernel: int = 3, groups: int = 1, bias: bool = False) -> int:
    """Weights of a convolution and of the normalisation behind it."""
    return inputs // groups * outputs * kernel**2 + (outputs if bias else 0) + 2 * outputs


def linear(inputs: int, classes: int = 100) -> int:
    return inputs * classes + classes


def resnet(depth: int, widths: tuple[int, ...] = (16, 16, 32, 64)) -> int:
    total = conv(3, widths[0]) + linear(widths[3])
    for before, width in zip(widths, widths[1:], strict=False):
        total += conv(before, width) + conv(width, width) + (depth - 8) // 6 * 2 * conv(width, width)
        # The stages of strides 2 change width too.
        total += conv(before, width, 1) if before != width else 0
    return total


def resnet50() -> int:
    total, inputs = conv(3, 64) + linear(2048), 64
    for width, blocks in zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True):
        for index in range(blocks):
            total += conv(inputs, width, 1) + conv(width, width) + conv(width, 4 * width, 1)
            total += conv(inputs, 4 * width, 1) if index == 0 else 0
            inputs = 4 * width
    return total


def wide_resnet(depth: int, factor: int) -> int:
    def pre_act(inputs: int, outputs: int) -> int:
        return 2 * inputs + 9 * inputs * outputs + 2 * outputs + 9 * outputs**2

    widths = (16, 16 * factor, 32 * factor, 64 * factor)
    total = 9 * 3 * 16 + 2 * widths[3] + linear(widths[3])
    for before, width in zip(widths, widths[1:], strict=False):
        total += pre_act(before, width) + (depth - 10) // 6 * pre_act(width, width)
        total += before * width if before != width else 0
    return total


def vgg(*convs: int) -> int:
    total, inputs = linear(512), 3
    for width, count in zip((64, 128, 256, 512, 512), convs, strict=True):
        for _ in range(count):
            total += conv(inputs, width, bias=True)
            inputs = width
    return total


def mobilenet_v2() -> int:
    total, inputs = conv(3, 16) + conv(160, 1280, 1) + linear(1280), 16
    for index, (width, blocks) in enumerate(
        [(8, 1), (12, 2), (16, 3), (32, 4), (48, 3), (80, 3), (160, 1)]  # half of 16, 24, 32, 64, 96, 160, 320
    ):
        for _ in range(blocks):
            hidden = inputs * (1 if index == 0 else 6)
            total += conv(inputs, hidden, 1) + conv(hidden, hidden, groups=hidden) + conv(hidden, width, 1)
            inputs = width
    return total


def shufflenet_v1() -> int:
    total, inputs = conv(3, 24, 1) + linear(960), 24
    for width, units in zip((240, 480, 960), (4, 8, 4), strict=True):
        for index in range(units):
            outputs = width - inputs if index == 0 else width
            hidden = outputs // 4
            total += conv(inputs, hidden, 1, groups=1 if inputs == 24 else 3)
            total += conv(hidden, hidden, groups=hidden) + conv(hidden, outputs, 1, groups=3)
            inputs = width
    return total


def shufflenet_v2() -> int:
    total, inputs = conv(3, 24, 1) + conv(464, 1024, 1) + linear(1024), 24
    for width, units in zip((116, 232, 464), (3, 7, 3), strict=True):
        half = width // 2
        total += conv(inputs, inputs, groups=inputs) + conv(inputs, half, 1)
        total += conv(inputs, half, 1) + conv(half, half, groups=half) + conv(half, half, 1)
        total += units * (2 * conv(half, half, 1) + conv(half, half, groups=half))
        inputs = width
    return total


X4 = (32, 64, 128, 256)
# Config, layer arithmetic, millions as printed (CRD, ICLR 2020, and the tables that follow it).
NETWORKS = [
    ("resnet8", resnet(8), 0.08),
    ("resnet14", resnet(14), 0.18),
    ("resnet20", resnet(20), 0.28),
    ("resnet32", resnet(32), 0.47),
    ("resnet44", resnet(44), 0.67),
    ("resnet56", resnet(56), 0.86),
    ("resnet110", resnet(110), 1.74),
    ("resnet8x4", resnet(8, X4), 1.23),
    ("resnet32x4", resnet(32, X4), 7.43),
    ("resnet50", resnet50(), 23.71),
    ("wrn-16-1", wide_resnet(16, 1), 0.18),
    ("wrn-16-2", wide_resnet(16, 2), 0.70),
    ("wrn-40-1", wide_resnet(40, 1), 0.57),
    ("wrn-40-2", wide_resnet(40, 2), 2.26),
    ("vgg8", vgg(1, 1, 1, 1, 1), 3.97),
    ("vgg11", vgg(1, 1, 2, 2, 2), 9.28),
    ("vgg13", vgg(2, 2, 2, 2, 2), 9.46),
    ("vgg16", vgg(2, 2, 3, 3, 3), 14.77),
    ("vgg19", vgg(2, 2, 4, 4, 4), 20.09),
    ("mobilenetv2", mobilenet_v2(), 0.81),
    ("shufflenetv1", shufflenet_v1(), 0.95),
    ("shufflenetv2", shufflenet_v2(), 1.36),
]

# Networks without a config of their own: the config to take and what to override.
OTHER_SIZES = {
    "resnet14": ("resnet20", {"model.backbone.depth": 14}),
    "resnet44": ("resnet20", {"model.backbone.depth": 44}),
    "wrn-16-1": ("wrn-40-1", {"model.backbone.depth": 16}),
    "vgg11": ("vgg8", {"model.backbone.depth": 11}),
    "vgg16": ("vgg8", {"model.backbone.depth": 16}),
    "vgg19": ("vgg8", {"model.backbone.depth": 19}),
}


@pytest.mark.parametrize(("name", "arithmetic", "printed"), NETWORKS, ids=[network[0] for network in NETWORKS])
def test_parameters_of_the_complete_classifier(name: str, arithmetic: int, printed: float) -> None:
    config = Config.fromfile(CONFIGS / "cifar100" / f"{OTHER_SIZES.get(name, (name,))[0]}_1xb64_cifar100.py")
    config.merge_from_dict(OTHER_SIZES[name][1] if name in OTHER_SIZES else {})
    model = MODELS.build(config.model)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == arithmetic
    assert round(counted / 1e6, 2) == printed


def test_cifar10_resnets_with_padding_shortcuts_have_the_original_counts() -> None:
    """He et al., 2016, table 6: 0.27 M and 0.85 M for 10 classes; no shortcut has a parameter."""
    for depth, printed in ((20, 0.27), (56, 0.85)):
        model = MODELS.build(Config.fromfile(CONFIGS / "cifar10" / f"resnet{depth}a_1xb64_cifar10.py").model)
        assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == printed
        assert not [name for name, _ in model.named_parameters() if "shortcut" in name]


def test_mobilenet_v1_has_the_count_of_the_paper() -> None:
    """Howard et al., 2017, table 8: 4.2 million."""
    model = MODELS.build(Config.fromfile(CONFIGS / "imagenet" / "mobilenetv1_8xb32_in1k.py").model)
    counted = sum(parameter.numel() for parameter in model.parameters())
    separable = [(32, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), *[(512, 512)] * 5]
    separable += [(512, 1024), (1024, 1024)]
    assert counted == conv(3, 32) + linear(1024, 1000) + sum(
        conv(before, before, groups=before) + conv(before, after, 1) for before, after in separable
    )
    assert round(counted / 1e6, 1) == 4.2


def osnet(widths: tuple[int, ...]) -> int:
    """Backbone and the fully connected layer behind it, which is 512 wide at every width."""
    total = conv(3, widths[0], 7) + linear(widths[3], 512) + 2 * 512
    for before, width in zip(widths, widths[1:], strict=False):
        hidden = width // 4
        lite = hidden**2 + conv(hidden, hidden, groups=hidden)
        block = 10 * lite + conv(hidden, width, 1) + linear(hidden, hidden // 16) + linear(hidden // 16, hidden)
        total += 2 * block + conv(before, hidden, 1) + conv(before, width, 1) + conv(width, hidden, 1)
        total += conv(width, width, 1)
    return total


def test_osnet_has_the_count_and_the_cost_of_the_paper() -> None:
    """Zhou et al., 2019: 2.2 M parameters, 978.9 M multiply-adds for 256 x 128 pixels; x0.25: 0.2 M."""
    config = Config.fromfile(CONFIGS.parent / "_base_" / "models" / "osnet.py").model
    for width, printed in ((1.0, 2.2), (0.75, 1.3), (0.5, 0.6), (0.25, 0.2)):
        config.backbone.width, config.neck.in_channels = width, int(512 * width)
        model = MODELS.build(config)
        counted = sum(parameter.numel() for part in (model.backbone, model.neck) for parameter in part.parameters())
        assert counted == osnet(tuple(int(width * base) for base in (64, 256, 384, 512)))
        assert round(counted / 1e6, 1) == printed
        if width == 1:
            _, macs = complexity(model, (256, 128))
            assert 978e6 < macs < 980e6
