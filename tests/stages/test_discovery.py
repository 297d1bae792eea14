"""Stage discovery: exact tables of well-known networks, named stages, errors, and a network left as it was."""

import copy

import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from torch import nn

import kd_mm  # noqa: F401
from kd_mm.stages.discovery import discover_stages
from kd_mm.stages.last_stride import set_last_stride
from kd_mm.stages.stage import stage_table


class Wrapper(nn.Module):
    """A network that is nothing but its backbone."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


def backbone(**config):
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return Wrapper(MODELS.build(config))


def image(side=64, width=None):
    return torch.zeros(1, 3, side, width or side)


TABLES = {
    "resnet50": (
        {"type": "ResNet", "depth": 50, "out_indices": (3,)},
        64,
        [("layer1", 256, 4), ("layer2", 512, 8), ("layer3", 1024, 16), ("layer4", 2048, 32)],
        (215808, 1219584, 7098368, 14964736),
    ),
    "mobilenet_v2": (
        {"type": "MobileNetV2"},
        64,
        [("layer1", 16, 2), ("layer2", 24, 4), ("layer3", 32, 8), ("layer5", 96, 16), ("conv2", 1280, 32)],
        (896, 13968, 39696, 487040, 1681344),
    ),
    "vgg11": (
        {"type": "VGG", "depth": 11},
        64,
        [
            ("features.0", 64, 1),
            ("features.2", 128, 2),
            ("features.5", 256, 4),
            ("features.8", 512, 8),
            ("features.11", 512, 16),
        ],
        (1792, 73856, 885248, 3539968, 4719616),
    ),
    "swin_tiny": (
        {"type": "SwinTransformer", "arch": "tiny", "pad_small_map": True},
        64,
        [("stages.0[0]", 96, 4), ("stages.1[0]", 192, 8), ("stages.2[0]", 384, 16), ("stages.3[0]", 768, 32)],
        (224694, 966252, 10955400, 15366576),
    ),
    "deit_tiny": (
        {"type": "VisionTransformer", "arch": "deit-tiny", "img_size": 64, "patch_size": 16},
        64,
        [("layers.2", 192, 16), ("layers.5", 192, 16), ("layers.8", 192, 16), ("layers.11", 192, 16)],
        (1334592,) * 4,
    ),
    "hrnet_w18": (
        {"type": "HRNet", "arch": "w18"},
        64,
        [("layer1", 256, 4), ("stage2[1]", 36, 8), ("stage3[2]", 72, 16), ("stage4[3]", 144, 32)],
        (286208, 248616, 2186352, 6802236),
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_exact_tables(name):
    config, side, expected, params = TABLES[name]
    stages = discover_stages(backbone(**config), image(side))
    found = [(stage.tap.removeprefix("backbone."), stage.channels, stage.stride) for stage in stages]
    assert found == expected
    assert tuple(stage.params for stage in stages) == params


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"type": "ResNet", "depth": 18}, [True] * 4),
        ({"type": "ShuffleNetV2"}, [True] * 3),
        # Linear bottlenecks; only the last convolution is followed by a ReLU6.
        ({"type": "MobileNetV2"}, [False] * 4 + [True]),
        ({"type": "MobileNetV3", "arch": "small"}, [False] * 4),
        # A normalisation follows the ReLU: not negative as long as it is untrained, but not because of the ReLU.
        ({"type": "ConvMixer", "arch": "768/32", "act_cfg": {"type": "ReLU"}}, [False] * 4),
    ],
    ids=["resnet", "shufflenet", "mobilenet_v2", "mobilenet_v3", "convmixer"],
)
def test_post_relu(config, expected):
    assert [stage.post_relu for stage in discover_stages(backbone(**config), image())] == expected


class Block(nn.Module):
    """A residual block, post-activation with a functional ReLU, or pre-activation."""

    def __init__(self, width, out, stride=1, pre=False):
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
        self.skip = nn.Conv2d(width, out, 1, stride)
        self.pre = pre

    def forward(self, x):
        if self.pre:
            return self.skip(x) + self.conv2(torch.relu(self.conv1(torch.relu(x))))
        return nn.functional.relu(self.skip(x) + self.conv2(nn.functional.relu(self.conv1(x))))


class Downsampled(nn.Module):
    """A stage that ends with the step to the next resolution."""

    def __init__(self, width, out, **kwargs):
        super().__init__()
        self.blocks = nn.ModuleList([Block(width, width, **kwargs) for _ in range(2)])
        self.downsample = nn.Conv2d(width, out, 3, 2, 1)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.downsample(x)


def test_stages_that_end_with_their_downsampling():
    for pre in (False, True):
        body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), Downsampled(8, 16, pre=pre), Downsampled(16, 32, pre=pre), Block(32, 32, pre=pre)
        )
        stages = discover_stages(Wrapper(body), image())
        assert [stage.tap for stage in stages] == ["backbone.1.blocks.1", "backbone.2.blocks.1", "backbone.3"]
        assert [(stage.channels, stage.stride) for stage in stages] == [(8, 2), (16, 4), (32, 8)]
        assert [stage.post_relu for stage in stages] == [not pre] * 3


def test_last_stages_at_one_resolution_stay_apart():
    for strides, dilations in (((1, 2, 2, 1), (1, 1, 1, 1)), ((1, 2, 1, 1), (1, 1, 2, 4))):
        model = backbone(type="ResNet", depth=18, strides=strides, dilations=dilations)
        stages = discover_stages(model, image())
        assert [stage.tap for stage in stages] == [f"backbone.layer{k}" for k in (1, 2, 3, 4)]
        assert stages[2].stride == stages[3].stride


def test_without_the_last_stride_stages_are_those_with_it():
    for config in (
        {"type": "ResNet", "depth": 18},
        {"type": "MobileNetV3"},
    ):
        model = backbone(**config)
        before = discover_stages(model, image())
        set_last_stride(model.backbone)
        state = {name: dict(vars(module)) for name, module in model.named_modules()}
        stages = discover_stages(model, image())
        assert {name: dict(vars(module)) for name, module in model.named_modules()} == state
        assert [(stage.tap, stage.channels, stage.params) for stage in stages] == [
            (stage.tap, stage.channels, stage.params) for stage in before
        ]
        assert [stage.stride for stage in stages] == [stage.stride for stage in before[:-1]] + [before[-1].stride / 2]


def test_stages_without_blocks_include_norm_and_activation():
    body = nn.Sequential(
        *[nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)],
    )
    stages = discover_stages(Wrapper(body), image())
    assert [(stage.tap, stage.channels, stage.stride, stage.post_relu) for stage in stages] == [
        ("backbone.2", 8, 1, True),
        ("backbone.6", 16, 2, True),
        ("backbone.10", 32, 4, True),
    ]


def test_a_module_that_runs_twice_is_tapped_at_the_right_call():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.down = nn.Conv2d(3, 8, 1), nn.MaxPool2d(2)
            self.block = Block(8, 8)

        def forward(self, x):
            return self.block(self.down(self.block(self.stem(x))))

    stages = discover_stages(Wrapper(Shared()), image())
    assert [(stage.tap, stage.height) for stage in stages] == [("backbone.block#0", 64), ("backbone.block", 32)]


@pytest.mark.parametrize(
    "config",
    [
        {"type": "SwinTransformer", "arch": "tiny", "pad_small_map": True},
        {"type": "PCPVT", "arch": "small"},
    ],
    ids=["swin", "twins"],
)
def test_token_grids_of_oblong_inputs(config):
    for height, width in ((96, 160), (96, 72)):
        stages = discover_stages(backbone(**config), image(height, width))
        grids = [(stage.height, stage.width) for stage in stages]
        assert grids[0] == (height // 4, width // 4)
        for (tall, wide), (next_tall, next_wide) in zip(grids, grids[1:], strict=False):
            assert next_tall in (tall // 2, (tall + 1) // 2)
            assert next_wide in (wide // 2, (wide + 1) // 2)


def test_the_network_and_the_random_state_are_left_as_they_were():
    model = backbone(type="ResNet", depth=18, norm_eval=True, frozen_stages=1)
    model.backbone.layer2.eval()
    model.backbone.layer4[0].conv1.weight.requires_grad = False
    before = copy.deepcopy(model.state_dict())
    flags = {name: module.training for name, module in model.named_modules()}
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    state = torch.get_rng_state()
    discover_stages(model, torch.rand(2, 3, 64, 64))
    torch.set_rng_state(state)  # torch.rand above is this test's own draw
    discover_stages(model, image())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_a_failing_forward_leaves_no_hooks_behind():
    model = backbone(type="VGG", depth=11, num_classes=10)
    flags = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError):  # its classifier takes 224 x 224 alone
        discover_stages(model, image())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert [module.training for module in model.modules()] == flags


def test_caches_of_evaluation_mode_are_as_before():
    for switches in (0, 1, 2):
        model = backbone(type="LeViT", arch="128s", img_size=64)
        for _ in range(switches):
            model.train()
        before = {name: dict(vars(module)) for name, module in model.named_modules()}
        assert len(discover_stages(model, image())) == 3
        after = {name: dict(vars(module)) for name, module in model.named_modules()}
        assert after.keys() == before.keys()
        for name, attributes in after.items():
            assert attributes.keys() == before[name].keys()
            assert all(value is before[name][key] for key, value in attributes.items())


def test_named_stages_are_measured_in_the_given_order_and_tuples_are_completed():
    model = backbone(type="ResNet", depth=18)
    stages = discover_stages(model, image(), names=["backbone.layer2.0", "backbone.layer4"])
    assert [(stage.index, stage.tap, stage.channels, stage.stride) for stage in stages] == [
        (1, "backbone.layer2.0", 128, 8),
        (2, "backbone.layer4", 512, 32),
    ]
    body = sum(p.numel() for n, p in model.named_parameters() if ".layer" in n)
    assert sum(stage.params for stage in stages) == body
    found = discover_stages(model, image())
    assert discover_stages(model, image(), names=[stage.tap for stage in found]) == found
    model = backbone(type="SwinTransformer", arch="tiny", pad_small_map=True)
    assert discover_stages(model, image(), names=["backbone.stages.1"])[0].tap == "backbone.stages.1[0]"
    chosen = discover_stages(backbone(type="HRNet", arch="w18"), image(), names=["backbone.stage4[0]"])[0]
    assert (chosen.tap, chosen.channels, chosen.stride) == ("backbone.stage4[0]", 18, 4)


def test_wrong_names_are_refused_with_the_table():
    model = backbone(type="ResNet", depth=18)
    model.head = nn.Linear(512, 10)
    model.backbone.drop = nn.Conv2d(3, 3, 1)
    model.backbone.extras = nn.ModuleList([nn.Conv2d(3, 3, 1)])
    for name, message in (
        ("backbone.layr3", "did you mean.*backbone.layer3"),
        ("layer3", "backbone.layer3"),
        ("backbone.drop", "never runs"),
        ("head", "lies outside of 'backbone'"),
        ("backbone.extras", "never called itself"),
        ("backbone.layer3#4", "runs 1 times"),
        ("backbone.layer3..", "not understood"),
        ("backbone.layer4[1]", "no feature map"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            discover_stages(model, image(), names=[name])
        first, *table = str(error.value).splitlines()
        assert name in first
        assert [line.split()[1] for line in table[-4:]] == [f"backbone.layer{k}" for k in (1, 2, 3, 4)]


def test_what_is_not_found_is_refused():
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
    with pytest.raises(ValueError, match=r"no stages found.*stages=\[\.\.\.\].*backbone\.0, backbone\.1") as error:
        discover_stages(Wrapper(body), image())
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"stages=\['backbone.2', 'backbone.0'\]: name them in the order in which"):
        discover_stages(Wrapper(body), image(), names=["backbone.2", "backbone.0"])
    with pytest.raises(ValueError, match="no module 'trunk'.*it has backbone"):
        discover_stages(backbone(type="ResNet", depth=18), image(), backbone="trunk")


def test_wrapped_backbones_and_transformers_of_few_layers():
    vit = {"type": "VisionTransformer", "arch": "deit-tiny", "img_size": 64, "patch_size": 16}
    lora = backbone(type="LoRAModel", module=vit, alpha=1, rank=1, targets=[{"type": "qkv"}])
    stages = discover_stages(lora, image())
    assert [stage.tap for stage in stages] == [f"backbone.module.layers.{i}" for i in (2, 5, 8, 11)]
    parallel = discover_stages(Wrapper(nn.DataParallel(backbone(type="ResNet", depth=18).backbone)), image())
    assert [stage.tap for stage in parallel] == [f"backbone.module.layer{i}" for i in (1, 2, 3, 4)]
    arch = {"embed_dims": 12, "num_layers": 3, "num_heads": 3, "feedforward_channels": 24}
    vit = {"type": "VisionTransformer", "arch": arch, "img_size": 64, "patch_size": 16}
    assert [stage.tap for stage in discover_stages(backbone(**vit), image())] == [
        f"backbone.layers.{i}" for i in range(3)
    ]


def test_stage_table_is_aligned():
    stages = discover_stages(backbone(type="ResNet", depth=18), image())
    header, rule, *rows = stage_table(stages).splitlines()
    assert header.split() == ["#", "tap", "layout", "shape", "stride", "params", "post-ReLU"]
    assert set(rule) == {"-", " "}
    assert len(rows) == 4
    assert rows[3].split() == ["4", "backbone.layer4", "map", "512", "x", "2", "x", "2", "32", "8,393,728", "yes"]
    column = header.index("stride")
    assert all(row[column - 1] == " " and row[column] != " " for row in (rule, *rows))
