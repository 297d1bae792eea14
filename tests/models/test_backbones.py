import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from kd_mm.models.backbones import (
    CIFARVGG,
    CIFARMobileNetV2,
    CIFARResNet,
    CIFARShuffleNetV1,
    CIFARShuffleNetV2,
    CIFARWideResNet,
    MobileNetV1,
    OSNet,
)
from kd_mm.models.backbones.cifar_resnet import PadShortcut
from kd_mm.models.backbones.layers import ChannelShuffle
from kd_mm.stages.discovery import discover_stages

# Backbone, its arguments, channels and sizes of the stages for 32 pixels.
STAGES = [
    (CIFARResNet, {"depth": 8}, [(16, 32), (32, 16), (64, 8)]),
    (CIFARResNet, {"depth": 14, "shortcut": "pad"}, [(16, 32), (32, 16), (64, 8)]),
    (CIFARResNet, {"depth": 8, "widths": (32, 64, 128, 256)}, [(64, 32), (128, 16), (256, 8)]),
    (CIFARWideResNet, {"depth": 10, "widen_factor": 2}, [(32, 32), (64, 16), (128, 8)]),
    (CIFARVGG, {"depth": 8}, [(64, 32), (128, 16), (256, 8), (512, 4)]),
    (CIFARMobileNetV2, {}, [(12, 16), (16, 8), (48, 4), (1280, 2)]),
    (CIFARShuffleNetV1, {}, [(240, 16), (480, 8), (960, 4)]),
    (CIFARShuffleNetV2, {}, [(116, 16), (232, 8), (1024, 4)]),
    (OSNet, {"width": 0.25}, [(64, 8), (96, 4), (128, 2)]),
    (MobileNetV1, {"width": 0.25}, [(16, 16), (32, 8), (64, 4), (128, 2), (256, 1)]),
]
IDS = [f"{row[0].__name__}-{index}" for index, row in enumerate(STAGES)]


@pytest.mark.parametrize(("network", "kwargs", "stages"), STAGES, ids=IDS)
def test_stages_are_named_modules_whose_outputs_are_returned(network, kwargs, stages) -> None:
    torch.manual_seed(0)
    backbone = network(**kwargs, out_indices=range(len(stages))).eval()
    seen = {}
    for name in backbone.stage_names:
        backbone.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: output})
        )
    with torch.no_grad():
        outputs = backbone(torch.randn(2, 3, 32, 32))
    assert [tuple(output.shape) for output in outputs] == [(2, width, size, size) for width, size in stages]
    assert backbone.stage_names == tuple(f"layer{number}" for number in range(1, len(stages) + 1))
    for name, output in zip(backbone.stage_names, outputs, strict=True):
        assert torch.equal(seen[name], output)
    assert outputs[-1].min() >= 0
    assert backbone.img_size == {MobileNetV1: 224, OSNet: 256}.get(network, 32)


@pytest.mark.parametrize(("network", "kwargs", "stages"), STAGES, ids=IDS)
def test_a_stage_output_is_not_changed_by_later_stages(network, kwargs, stages) -> None:
    torch.manual_seed(0)
    backbone = network(**kwargs).train()
    kept = []
    backbone.layer1.register_forward_hook(lambda module, args, output: kept.append((output, output.detach().clone())))
    backbone(torch.randn(2, 3, 32, 32))
    output, copy = kept[0]
    assert torch.equal(output, copy)


@pytest.mark.parametrize(("network", "kwargs", "stages"), STAGES, ids=IDS)
def test_a_training_step_is_finite_and_reaches_every_parameter(network, kwargs, stages) -> None:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        model = MODELS.build(
            {
                "type": "ImageClassifier",
                "backbone": {"type": f"kd_mm.{network.__name__}", **kwargs},
                "neck": {"type": "GlobalAveragePooling"},
                "head": {"type": "LinearClsHead", "num_classes": 5, "in_channels": stages[-1][0], "topk": (1, 5)},
            }
        )
    model.init_weights()
    model.train()
    features = model.extract_feat(torch.randn(4, 3, 32, 32))
    loss = torch.nn.functional.cross_entropy(model.head(features), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert torch.isfinite(loss)
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize(("network", "kwargs", "stages"), STAGES, ids=IDS)
def test_stages_are_found_by_themselves(network, kwargs, stages) -> None:
    model = torch.nn.ModuleDict({"backbone": network(**kwargs)})
    found = discover_stages(model, torch.zeros(2, 3, 64, 64))
    assert [stage.tap for stage in found] == [f"backbone.{name}" for name in model["backbone"].stage_names]
    assert [(stage.channels, stage.height) for stage in found] == [(width, 2 * size) for width, size in stages]


def test_pre_activation_stages_keep_negative_values_until_the_last() -> None:
    torch.manual_seed(0)
    outputs = CIFARWideResNet(16, 2, out_indices=(0, 1, 2)).eval()(torch.randn(2, 3, 32, 32))
    assert outputs[0].min() < 0
    assert outputs[1].min() < 0
    assert outputs[2].min() >= 0


def test_pad_shortcut_takes_every_second_pixel_and_fills_both_sides() -> None:
    x = torch.arange(2 * 16, dtype=torch.float32).reshape(1, 2, 4, 4)
    out = PadShortcut(2, 2)(x)
    assert out.shape == (1, 4, 2, 2)
    assert out[0, 1].tolist() == [[0, 2], [8, 10]]
    assert out[0, 2].tolist() == [[16, 18], [24, 26]]
    assert out[0, 0].abs().sum() == 0
    assert out[0, 3].abs().sum() == 0


def test_channel_shuffle_interleaves_the_groups() -> None:
    x = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert ChannelShuffle(3)(x).flatten().tolist() == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CIFARResNet(21), "6n \\+ 2"),
        (lambda: CIFARResNet(20, shortcut="a"), "'conv' or 'pad'"),
        (lambda: CIFARResNet(20, widths=(16, 32, 64)), "four"),
        (lambda: CIFARResNet(20, out_indices=(3,)), "0 to 2.*layer1, layer2, layer3"),
        (lambda: CIFARResNet(20, out_indices=()), "out_indices"),
        (lambda: CIFARWideResNet(20, 2), "6n \\+ 4"),
        (lambda: CIFARVGG(9), "8, 11, 13, 16, 19"),
    ],
)
def test_wrong_arguments_are_said_in_one_line(build, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
