"""Where a stage is read before its ReLU."""

from typing import Any

import pytest
import torch
from mmengine.registry import init_default_scope
from torch import nn

from kd_mm.registry import MODELS
from kd_mm.stages import Recorder, discover_stages
from kd_mm.stages.preactivation import before_relu
from kd_mm.stages.tap import Tap, find_module

RESNET = {"type": "mmpretrain.ResNet", "depth": 18}
VIT_ARCH = {"embed_dims": 24, "num_layers": 4, "num_heads": 2, "feedforward_channels": 48}
NONE: list[None] = [None] * 4


def network(config: dict[str, Any]) -> nn.Module:
    init_default_scope("mmpretrain")
    model = nn.Module()
    model.backbone = MODELS.build(config)
    return model


@pytest.mark.parametrize(
    ("config", "pixels", "taps", "norms"),
    [
        (RESNET, 64, [f"layer{i}.1.relu:in" for i in range(1, 5)], [f"layer{i}.1.bn2" for i in range(1, 5)]),
        # One block a stage: the norm of the shortcut runs last, but is not of the main branch.
        (
            {"type": "kd_mm.CIFARResNet", "depth": 8},
            32,
            [f"layer{i}.0.relu:in" for i in (1, 2, 3)],
            [f"layer{i}.0.bn2" for i in (1, 2, 3)],
        ),
        (
            {"type": "mmpretrain.SEResNet", "depth": 50},
            64,
            ["layer1.2.relu:in", "layer2.3.relu:in", "layer3.5.relu:in", "layer4.2.relu:in"],
            ["layer1.2.bn3", "layer2.3.bn3", "layer3.5.bn3", "layer4.2.bn3"],
        ),
        # Pre-activation: the norm and ReLU that follow belong to the next stage's first block.
        (
            {"type": "kd_mm.CIFARWideResNet", "depth": 10, "widen_factor": 1},
            32,
            ["layer2.0.bn1", "layer3.0.bn1", "layer3.act:in"],
            ["layer2.0.bn1", "layer3.0.bn1", "layer3.norm"],
        ),
        (
            {"type": "kd_mm.CIFARMobileNetV2"},
            32,
            [None, None, None, "layer4.head.act:in"],
            [None, None, None, "layer4.head.norm"],
        ),
        ({"type": "mmpretrain.VisionTransformer", "arch": VIT_ARCH, "img_size": 32, "patch_size": 8}, 32, NONE, NONE),
    ],
)
def test_families(config: dict[str, Any], pixels: int, taps: list[str | None], norms: list[str | None]) -> None:
    model = network(config)
    names = {module: name for name, module in model.named_modules()}
    training = {name: module.training for name, module in model.named_modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    found = before_relu(model, discover_stages(model, torch.zeros(2, 3, pixels, pixels)))
    assert [entry and entry.tap.removeprefix("backbone.") for entry in found] == taps
    assert [entry and names[entry.norm].removeprefix("backbone.") for entry in found] == norms
    assert training == {name: module.training for name, module in model.named_modules()}
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_what_is_read_becomes_the_stage_by_a_relu() -> None:
    for config in (RESNET, {"type": "kd_mm.CIFARWideResNet", "depth": 10, "widen_factor": 1}):
        model = network(config).eval()
        stages = discover_stages(model, torch.zeros(2, 3, 64, 64))
        found = before_relu(model, stages)
        entries = [entry.tap for entry in found if entry is not None]
        with torch.no_grad(), Recorder(model, [*entries, *(stage.tap for stage in stages)]) as recorder:
            model.backbone(torch.randn(2, 3, 64, 64))
            recorder.calibrate()
        records = recorder.take()
        for stage, entry in zip(stages, entries, strict=True):
            assert records[entry].shape == records[stage.tap].shape
            assert float(records[entry].min()) < 0
            if stage.post_relu:
                torch.testing.assert_close(records[entry].relu(), records[stage.tap])
            else:
                norm = find_module(model, Tap.parse(entry))
                torch.testing.assert_close(norm(records[stage.tap]), records[entry])


def test_functions_are_not_found() -> None:
    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(width, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.norm(self.conv2(self.conv1(x))))

    model = nn.Module()
    model.backbone = nn.Sequential(Block(3), Block(8), Block(8))
    stages = discover_stages(model, torch.zeros(2, 3, 32, 32))
    assert all(stage.post_relu for stage in stages)
    assert before_relu(model, stages) == [None] * len(stages)
