"""What makes the teacher cheaper changes nothing but rounding."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd_mm.distillers.keeping import features_read
from kd_mm.losses import Loss, StageChannelLoss
from kd_mm.registry import MODELS
from kd_mm.stages.exits import SepConvExit
from kd_mm.stages.observation import Observation

from .conftest import batch, build, classifier, recipe


@MODELS.register_module(force=True)
class ReadsConvTwice(nn.Module):
    """A backbone in which something besides the batch norm reads the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32)
        self.norm.running_var.fill_(3.0)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = self.conv(x)
        return (self.norm(x) + x,)


def folded(model: nn.Module) -> int:
    return sum("forward" in vars(module) for module in model.modules())


def answer_and_loss(**teacher: Any) -> tuple[dict[str, Tensor], dict[str, Tensor], nn.Module]:
    model = build(teacher={"config": classifier(depth=14), "random_weights": True, **teacher})
    network = model.teachers["teacher"].model
    for index, norm in enumerate(module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        generator = torch.Generator().manual_seed(index)
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.5, 2.0, generator=generator)
    data = model.data_preprocessor(batch(), False)
    shown = model.teachers["teacher"].observe(data["inputs"])
    return shown, model.eval()(**data, mode="loss"), network


@pytest.mark.parametrize("options", [{}, {"channels_last": True}])
def test_folded_teacher_shows_the_same(options: dict[str, bool]) -> None:
    expected, plain, unfolded = answer_and_loss(fold=False)
    shown, losses, network = answer_and_loss(**options)
    assert folded(unfolded) == 0
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert folded(network) == 2 * norms > 0
    for tap, value in expected.items():
        torch.testing.assert_close(shown[tap], value, rtol=1e-4, atol=1e-5)
    for name, value in plain.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)
    for (name, own), other in zip(network.state_dict().items(), unfolded.state_dict().values(), strict=True):
        assert torch.equal(own, other), name


def test_a_fold_that_shows_something_else_is_undone() -> None:
    teacher = classifier(width=8)
    teacher["backbone"] = {"type": "kd_mm.ReadsConvTwice"}
    model = build(teacher={"config": teacher, "random_weights": True}, recipe=recipe("kd"))
    assert folded(model.teachers["teacher"].model) == 0


def test_maps_that_are_read_for_their_mean_alone_are_not_kept() -> None:
    class ReadsMaps(Loss):
        reads = frozenset({"teacher.features"})

    maps = {1: torch.rand(2, 3, 8, 8), 2: torch.rand(2, 5, 4, 4), 3: torch.rand(2, 7, 2, 2)}
    means, whole = StageChannelLoss(stages=[1, 2]), ReadsMaps(stages=[2])
    kept = features_read(maps, [means, whole], 3)
    assert {i: tuple(feature.shape) for i, feature in kept.items()} == {1: (2, 3, 1, 1), 2: (2, 5, 4, 4)}
    own = Observation(connected={i: torch.rand_like(feature) for i, feature in maps.items()}, logits=torch.zeros(2, 2))
    assert torch.equal(means(own, Observation(features=kept)), means(own, Observation(features=maps)))


def test_teacher_exits_rest_while_no_loss_in_force_reads_them() -> None:
    late = {"type": "kd_mm.StepDecay", "milestones": [0], "gamma": 0.0}
    model = build(recipe=recipe(**{"losses.srd.schedule": late}))
    calls: list[nn.Module] = []
    for layer in model.teachers["teacher"].exits.values():
        layer.register_forward_hook(lambda module, *_: calls.append(module))
    losses = model(**model.data_preprocessor(batch(), True), mode="loss")
    assert "loss_scd" in losses
    assert "loss_srd" not in losses
    assert not calls


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_separable_exit_is_its_layers_in_order(stages: int) -> None:
    layers = SepConvExit([4, 6, 8, 10][-stages:], 5).double()
    layers.init_weights()
    feature = torch.rand(3, layers.widths[0], 16, 16, dtype=torch.float64, requires_grad=True)
    expected = layers.fc(layers.body(feature).mean(dim=(2, 3)))
    answer = layers(feature)
    torch.testing.assert_close(answer, expected)
    (gradient,) = torch.autograd.grad(answer.square().sum(), feature)
    (other,) = torch.autograd.grad(expected.square().sum(), feature)
    torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_channel_descriptor_is_the_mean_and_its_gradient_keeps_the_layout(memory_format: torch.memory_format) -> None:
    feature = torch.rand(3, 5, 6, 7).contiguous(memory_format=memory_format).requires_grad_()
    weights = torch.rand(3, 5)
    (expected,) = torch.autograd.grad((feature.mean(dim=(2, 3)) * weights).sum(), feature)
    pooled = StageChannelLoss().describe(feature)
    (gradient,) = torch.autograd.grad((pooled * weights).sum(), feature)
    assert torch.equal(pooled, feature.mean(dim=(2, 3)))
    assert torch.equal(gradient, expected)
    assert gradient.is_contiguous(memory_format=memory_format)
