"""Parameter counts of the networks against the figures of the literature."""

from pathlib import Path
from typing import Any

from mmengine import Config
from mmpretrain.registry import MODELS
from torch import nn

from kd_mm.hooks.report import complexity

CONFIGS = Path(__file__).parents[2] / "configs" / "classification"
# Parameters by layer arithmetic, and millions as printed (CRD, ICLR 2020, and the tables that follow it).
CIFAR100 = {
    "resnet8": (83_892, 0.08),
    "resnet14": (181_108, 0.18),
    "resnet20": (278_324, 0.28),
    "resnet32": (472_756, 0.47),
    "resnet44": (667_188, 0.67),
    "resnet56": (861_620, 0.86),
    "resnet110": (1_736_564, 1.74),
    "resnet8x4": (1_233_540, 1.23),
    "resnet32x4": (7_433_860, 7.43),
    "resnet50": (23_705_252, 23.71),
    "wrn-16-1": (180_916, 0.18),
    "wrn-16-2": (703_284, 0.70),
    "wrn-40-1": (569_780, 0.57),
    "wrn-40-2": (2_255_156, 2.26),
    "vgg8": (3_965_028, 3.97),
    "vgg11": (9_277_284, 9.28),
    "vgg13": (9_462_180, 9.46),
    "vgg16": (14_774_436, 14.77),
    "vgg19": (20_086_692, 20.09),
    "mobilenetv2": (812_836, 0.81),
    "shufflenetv1": (949_258, 0.95),
    "shufflenetv2": (1_355_528, 1.36),
}
# Depths without a config: the config to start from.
OTHER_DEPTHS = {
    "resnet14": ("resnet20", 14),
    "resnet44": ("resnet20", 44),
    "wrn-16-1": ("wrn-40-1", 16),
    "vgg11": ("vgg8", 11),
    "vgg16": ("vgg8", 16),
    "vgg19": ("vgg8", 19),
}


def parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def build(path: str, **backbone: Any) -> nn.Module:
    model = Config.fromfile(CONFIGS / path).model
    model.backbone.update(backbone)
    return MODELS.build(model)


def test_cifar100_classifiers() -> None:
    for name, (count, printed) in CIFAR100.items():
        base, depth = OTHER_DEPTHS.get(name, (name, None))
        counted = parameters(build(f"cifar100/{base}_1xb64_cifar100.py", **({"depth": depth} if depth else {})))
        assert counted == count, name
        assert round(counted / 1e6, 2) == printed, name


def test_cifar10_resnets_with_padding_shortcuts() -> None:
    """He et al., 2016, table 6: 0.27 M and 0.85 M for 10 classes; shortcuts have no parameters."""
    for depth, printed in ((20, 0.27), (56, 0.85)):
        model = build(f"cifar10/resnet{depth}a_1xb64_cifar10.py")
        assert round(parameters(model) / 1e6, 2) == printed
        assert not [name for name, _ in model.named_parameters() if "shortcut" in name]


def test_mobilenet_v1() -> None:
    """Howard et al., 2017, table 8: 4.2 million."""
    assert parameters(build("imagenet/mobilenetv1_8xb32_in1k.py")) == 4_231_976


def test_osnet() -> None:
    """Zhou et al., 2019: 2.2 M parameters, 978.9 M multiply-adds for 256 x 128 pixels; x0.25: 0.2 M."""
    config = Config.fromfile(CONFIGS.parent / "_base_" / "models" / "osnet.py").model
    for width, count in ((1.0, 2_169_508), (0.75, 1_285_754), (0.5, 630_034), (0.25, 201_864)):
        config.backbone.width, config.neck.in_channels = width, int(512 * width)
        model = MODELS.build(config)
        assert parameters(model.backbone, model.neck) == count
        if width == 1:
            assert 978e6 < complexity(model, (256, 128))[1] < 980e6
