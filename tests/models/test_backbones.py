"""Backbones for small images, OSNet and MobileNetV1: stages, a training step, wrong arguments."""

from typing import Any

import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from kd_mm.models.backbones import CIFARVGG, CIFARResNet, CIFARWideResNet
from kd_mm.models.backbones.cifar import PadShortcut
from kd_mm.stages.discovery import discover_stages

from ..helpers.errors import assert_refused

# Backbone, its arguments, channels and sizes of the stages for 32 pixels.
STAGES = [
    ("CIFARResNet", {"depth": 8}, [(16, 32), (32, 16), (64, 8)]),
    ("CIFARResNet", {"depth": 14, "shortcut": "pad"}, [(16, 32), (32, 16), (64, 8)]),
    ("CIFARResNet", {"depth": 8, "widths": (32, 64, 128, 256)}, [(64, 32), (128, 16), (256, 8)]),
    ("CIFARWideResNet", {"depth": 10, "widen_factor": 2}, [(32, 32), (64, 16), (128, 8)]),
    ("CIFARVGG", {"depth": 8}, [(64, 32), (128, 16), (256, 8), (512, 4)]),
    ("CIFARMobileNetV2", {}, [(12, 16), (16, 8), (48, 4), (1280, 2)]),
    ("CIFARShuffleNetV1", {}, [(240, 16), (480, 8), (960, 4)]),
    ("CIFARShuffleNetV2", {}, [(116, 16), (232, 8), (1024, 4)]),
    ("OSNet", {"width": 0.25}, [(64, 8), (96, 4), (128, 2)]),
    ("MobileNetV1", {"width": 0.25}, [(16, 16), (32, 8), (64, 4), (128, 2), (256, 1)]),
]


def build(name: str, kwargs: dict[str, Any], channels: int, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    head = {"type": "LinearClsHead", "num_classes": 5, "in_channels": channels, "topk": (1, 5)}
    backbone = {"type": f"kd_mm.{name}", **kwargs, **options}
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(
            {"type": "ImageClassifier", "backbone": backbone, "neck": {"type": "GlobalAveragePooling"}, "head": head}
        )


@pytest.mark.parametrize(("name", "kwargs", "stages"), STAGES)
def test_stages_and_a_training_step(name: str, kwargs: dict[str, Any], stages: list[tuple[int, int]]) -> None:
    model = build(name, kwargs, stages[-1][0], out_indices=range(len(stages)))
    backbone = model.backbone
    assert backbone.stage_names == tuple(f"layer{number}" for number in range(1, len(stages) + 1))
    assert backbone.img_size == {"MobileNetV1": 224, "OSNet": 256}.get(name, 32)
    recorded: dict[str, Tensor] = {}
    copies: dict[str, Tensor] = {}

    def record(stage: str, output: Tensor) -> None:
        recorded[stage], copies[stage] = output, output.detach().clone()

    for stage in backbone.stage_names:
        module = backbone.get_submodule(stage)
        module.register_forward_hook(lambda module, args, output, stage=stage: record(stage, output))
    model.init_weights()
    model.train()
    outputs = backbone(torch.randn(4, 3, 32, 32))
    assert [tuple(output.shape) for output in outputs] == [(4, width, size, size) for width, size in stages]
    assert outputs[-1].min() >= 0
    for stage, output in zip(backbone.stage_names, outputs, strict=True):
        assert recorded[stage] is output or torch.equal(recorded[stage], output)
        assert torch.equal(recorded[stage], copies[stage])  # later stages do not write into it
    loss = nn.functional.cross_entropy(model.head(model.neck(outputs)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert torch.isfinite(loss)
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize(("name", "kwargs", "stages"), [STAGES[0], STAGES[3], STAGES[5], STAGES[7], STAGES[8]])
def test_stages_are_discovered(name: str, kwargs: dict[str, Any], stages: list[tuple[int, int]]) -> None:
    model = build(name, kwargs, stages[-1][0])
    found = discover_stages(nn.ModuleDict({"backbone": model.backbone}), torch.zeros(2, 3, 64, 64))
    assert [stage.tap for stage in found] == [f"backbone.{stage}" for stage in model.backbone.stage_names]
    assert [(stage.channels, stage.height) for stage in found] == [(width, 2 * size) for width, size in stages]


def test_last_pre_activation_stage_and_padded_shortcuts() -> None:
    torch.manual_seed(0)
    first, second, last = CIFARWideResNet(16, 2, out_indices=(0, 1, 2)).eval()(torch.randn(2, 3, 32, 32))
    assert first.min() < 0
    assert second.min() < 0
    assert last.min() >= 0
    out = PadShortcut(2, 2)(torch.arange(2 * 16, dtype=torch.float32).reshape(1, 2, 4, 4))
    assert out.shape == (1, 4, 2, 2)
    assert out[0, 1:3].tolist() == [[[0, 2], [8, 10]], [[16, 18], [24, 26]]]
    assert out[0, [0, 3]].abs().sum() == 0


def test_wrong_arguments_raise_one_line() -> None:
    for network, args, kwargs, message in (
        (CIFARResNet, (21,), {}, "6n \\+ 2"),
        (CIFARResNet, (20,), {"shortcut": "a"}, "choose one of 'conv', 'pad'"),
        (CIFARResNet, (20,), {"widths": (16, 32, 64)}, "four"),
        (CIFARResNet, (20,), {"out_indices": (3,)}, "0 to 2.*layer1, layer2, layer3"),
        (CIFARResNet, (20,), {"out_indices": ()}, "out_indices"),
        (CIFARWideResNet, (20, 2), {}, "6n \\+ 4"),
        (CIFARVGG, (9,), {}, "8, 11, 13, 16, 19"),
    ):
        assert_refused(message, network, *args, **kwargs)
