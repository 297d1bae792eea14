"""What makes the teacher cheaper changes nothing but rounding."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd_mm.distillers.keeping import features_read
from kd_mm.hooks.report import complexity
from kd_mm.losses import Loss, StageChannelLoss
from kd_mm.losses.observation import Observation
from kd_mm.models.exits import SepConvExit
from kd_mm.registry import MODELS
from kd_mm.stages.memory_format import fast_pooling
from tests.devices import DEVICES

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


@MODELS.register_module(force=True)
class FlattensByView(nn.Module):
    """A backbone that runs in the plain memory format alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = self.norm(self.conv(x))
        return (x.view(len(x), -1)[:, :32],)


@pytest.mark.parametrize("options", [{}, {"channels_last": True}, {"channels_last": False}])
def test_folded_teacher_shows_the_same(options: dict[str, bool]) -> None:
    expected, plain, unfolded = answer_and_loss(fold=False, channels_last=False)
    shown, losses, network = answer_and_loss(**options)
    assert folded(unfolded) == 0
    last = options.get("channels_last", True)  # the default on the CPU
    maps = [value for value in shown.values() if value.ndim == 4]
    assert all(value.is_contiguous(memory_format=torch.channels_last) == last for value in maps)
    assert maps
    assert complexity(network, (32, 32)) == complexity(unfolded, (32, 32))
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


def test_a_network_that_the_memory_format_breaks_keeps_the_plain_one() -> None:
    teacher = classifier(width=8)
    teacher["backbone"], teacher["neck"] = {"type": "kd_mm.FlattensByView"}, None
    model = build(teacher={"config": teacher, "random_weights": True}, recipe=recipe("kd"))
    network = model.teachers["teacher"].model
    assert folded(network) == 2
    assert network.backbone.conv.weight.is_contiguous()  # type: ignore[union-attr, operator]
    assert "loss_kd" in model(**model.data_preprocessor(batch(), True), mode="loss")


def test_losses_get_the_maps_of_the_teacher_in_the_plain_format() -> None:
    seen: list[Tensor] = []

    @MODELS.register_module(force=True)
    class KeepsMaps(Loss):
        requires = frozenset({"student.adapted", "teacher.features"})

        def terms(self, student: Observation, teacher: Observation | None) -> dict[str, Tensor]:
            assert teacher is not None
            seen.extend(teacher.features.values())
            return {f"stage{i}": feature.mean() for i, feature in student.adapted.items()}

    model = build(recipe={"losses": {"maps": {"type": "kd_mm.KeepsMaps"}}})
    model(**model.data_preprocessor(batch(), True), mode="loss")
    assert seen
    assert all(feature.ndim == 4 and feature.is_contiguous() for feature in seen)


def test_maps_that_are_read_for_their_mean_alone_are_not_kept() -> None:
    class ReadsMaps(Loss):
        requires = frozenset({"teacher.features"})

    maps = {1: torch.rand(2, 3, 8, 8), 2: torch.rand(2, 5, 4, 4), 3: torch.rand(2, 7, 2, 2)}
    means, whole = StageChannelLoss(stages=[1, 2]), ReadsMaps(stages=[2])
    kept = features_read(maps, [means, whole], 3, torch.Tensor.contiguous)
    assert {i: tuple(feature.shape) for i, feature in kept.items()} == {1: (2, 3, 1, 1), 2: (2, 5, 4, 4)}
    own = Observation(adapted={i: torch.rand_like(feature) for i, feature in maps.items()}, logits=torch.zeros(2, 2))
    assert torch.equal(means(own, Observation(features=kept)), means(own, Observation(features=maps)))


def test_teacher_exits_rest_while_no_loss_in_force_reads_them() -> None:
    late = {"type": "kd_mm.PiecewiseConstant", "levels": [0.0], "bounds": []}
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_channel_descriptor_of_a_narrow_map_is_summed_up_in_float32(dtype: torch.dtype) -> None:
    feature = (100 + torch.rand(3, 5, 16, 16)).to(dtype).requires_grad_()
    pooled = StageChannelLoss().describe(feature)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, feature.double().mean(dim=(2, 3)).float(), rtol=1e-6, atol=0)
    pooled.sum().backward()
    assert feature.grad is not None
    torch.testing.assert_close(feature.grad, torch.full_like(feature, 1 / 256))
    (kept,) = features_read({1: feature.detach()}, [StageChannelLoss()], 1, torch.Tensor.contiguous).values()
    assert torch.equal(kept.flatten(1), pooled.detach())


@pytest.mark.parametrize("device", DEVICES)
def test_the_format_follows_device_and_precision(device: str) -> None:
    model = build().to(device).train()
    network = model.teachers["teacher"].model
    data = model.data_preprocessor(batch(), True)
    weights = [weight for weight in network.parameters() if weight.ndim == 4 and min(weight.shape[1:]) > 1]

    def last() -> set[bool]:
        return {weight.is_contiguous(memory_format=torch.channels_last) for weight in weights}

    wide = model(**data, mode="loss")
    assert folded(network) > 0  # the folds are there; on a GPU they rest
    assert last() == {device == "cpu"}
    with torch.autocast(device, dtype=torch.bfloat16):
        narrow = model(**data, mode="loss")
    assert last() == {True}
    for name, value in wide.items():
        torch.testing.assert_close(narrow[name].float(), value, rtol=0.1, atol=0.05)
    again = model(**data, mode="loss")
    assert last() == {device == "cpu"}
    for name, value in wide.items():
        torch.testing.assert_close(again[name], value, rtol=1e-3, atol=1e-4)


def test_pooled_branches_run_in_their_own_format_and_give_the_network_its_own_back() -> None:
    feature = torch.rand(3, 5, 6, 7, requires_grad=True)
    branch = fast_pooling(feature)
    assert torch.equal(branch, feature)
    assert branch.is_contiguous(memory_format=torch.channels_last)
    (branch * 2).sum().backward()
    assert feature.grad is not None
    assert feature.grad.is_contiguous()
    assert torch.equal(feature.grad, torch.full_like(feature, 2.0))


def test_connectors_run_fast_where_only_means_are_read() -> None:
    formats: dict[str, bool] = {}
    for name, losses in {"means": ["scd"], "maps": ["scd", "hint"]}.items():
        terms = {"scd": {"type": "kd_mm.StageChannelLoss"}, "hint": {"type": "kd_mm.FitNetsLoss"}}
        model = build(recipe={"connectors": recipe()["connectors"], "losses": {key: terms[key] for key in losses}})
        connector: Any = model.distill["connectors"]["teacher"]["1"]  # type: ignore[index]
        connector.register_forward_pre_hook(
            lambda _module, args, name=name: formats.update({name: args[0].is_contiguous()})
        )
        model(**model.data_preprocessor(batch(), True), mode="loss")
    assert formats == {"means": False, "maps": True}


def test_exits_and_connectors_share_one_map_of_a_stage() -> None:
    model, seen = build(), list[Tensor]()
    for part in (model.distill["exits"]["1"], model.distill["connectors"]["teacher"]["1"]):  # type: ignore[index]
        part.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    model(**model.data_preprocessor(batch(), True), mode="loss")
    assert seen[0] is seen[1]
    assert not seen[0].is_contiguous()
