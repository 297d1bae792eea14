"""FitNets, AT, VID, OFD and ReviewKD against numbers of their public code, independent arithmetic, and extreme values.

The golden numbers come from RepDistiller (AT, VID) and mdistiller (OFD, ReviewKD), run on the same waves in float64.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck

from kd_mm.losses import (
    ATLoss,
    FitNetsLoss,
    Loss,
    LossContext,
    OFDLoss,
    ReviewKDLoss,
    VIDLoss,
)
from kd_mm.losses.observation import Observation
from kd_mm.losses.ofd import negative_mean, partial_distance
from kd_mm.losses.reviewkd import hierarchical_context

from ..helpers.waves import wave
from .test_detection_baselines import FIXTURE_STUDENT, FIXTURE_TEACHER, STUDENT, TEACHER

SMALL, WIDE, LARGE = wave(2, 3, 4, 4, pace=0.9, size=2.0), wave(2, 5, 4, 4, pace=1.7) + 0.5, wave(2, 5, 8, 8, pace=1.3)


def setting(*channels: tuple[int, int]) -> LossContext:
    """Pairs of stages with these widths (student, teacher)."""
    pairs = [(SimpleNamespace(channels=a), SimpleNamespace(channels=b)) for a, b in channels]
    return LossContext(pairs=pairs, num_classes=5)  # type: ignore[arg-type]


def waves_for_weights(module: nn.Module, pace: float, step: float, size: float) -> None:
    for k, parameter in enumerate(module.parameters()):
        parameter.data.copy_(wave(*parameter.shape, pace=pace + step * k, size=size))


def observed(student: Tensor, teacher: Tensor) -> tuple[Observation, Observation]:
    ours = Observation(features={1: student}, adapted={1: student})
    return ours, Observation(features={1: teacher}, taps={"before": teacher})


# -- FitNets -------------------------------------------------------------------------------------------------------


def test_hints_by_numpy() -> None:
    expected = np.square(STUDENT.numpy() - TEACHER.numpy()).mean()
    assert float(FitNetsLoss()(*observed(STUDENT, TEACHER))) == pytest.approx(expected, abs=1e-12)
    pooled = LARGE.numpy().reshape(2, 5, 4, 2, 4, 2).mean(axis=(3, 5))
    expected = np.square(WIDE.numpy() - pooled).mean()
    for pair in ((WIDE, LARGE), (LARGE, WIDE)):
        assert float(FitNetsLoss()(*observed(*pair))) == pytest.approx(expected, abs=1e-12)


def test_hints_of_unlike_aspects_meet_at_the_smaller_size() -> None:
    tall, flat = torch.ones(1, 2, 6, 3), torch.full((1, 2, 2, 5), 3.0)
    assert float(FitNetsLoss()(*observed(tall, flat))) == 4.0


# -- AT ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (FIXTURE_STUDENT, FIXTURE_TEACHER, 0.117755),
        (STUDENT, TEACHER, 0.010430555496270814),
        (SMALL, LARGE, 0.004348168177950665),
        (LARGE, SMALL, 0.004348168177950665),
    ],
)
def test_attention_transfer_agrees_with_public_code(student: Tensor, teacher: Tensor, expected: float) -> None:
    assert float(ATLoss()(*observed(student, teacher))) == pytest.approx(expected, abs=1e-6)


def test_attention_transfer_does_not_see_the_scale() -> None:
    plain = ATLoss()(*observed(STUDENT, TEACHER))
    for scale in (1e-9, 1e9):
        torch.testing.assert_close(ATLoss()(*observed(scale * STUDENT, TEACHER / scale)), plain)


def test_attention_transfer_with_another_power_by_numpy() -> None:
    def share(x: Tensor) -> np.ndarray:
        places = np.abs(x.numpy()).mean(axis=1).reshape(2, -1)
        return places / np.linalg.norm(places, axis=1, keepdims=True)

    expected = np.square(share(STUDENT) - share(TEACHER)).mean()
    assert float(ATLoss(power=1)(*observed(STUDENT, TEACHER))) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="power=0"):
        ATLoss(power=0)


def test_attention_of_a_dead_map_is_zero_with_finite_gradient() -> None:
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    value = ATLoss()(*observed(student, torch.rand(2, 5, 4, 4)))
    value.backward()
    assert float(value) == pytest.approx(1 / 16)
    assert torch.isfinite(student.grad).all()


# -- VID -----------------------------------------------------------------------------------------------------------


def vid(**options: Any) -> VIDLoss:
    loss = VIDLoss(**options)
    loss.setup(setting((3, 5)))
    loss.double()
    waves_for_weights(loss.regressors, 1.1, 0.1, 0.5)
    loss.scales["stage1"].data.copy_(wave(5, pace=2.1) + 1)
    return loss


@pytest.mark.parametrize(("teacher", "expected"), [(WIDE, 0.44559720757184007), (LARGE, 0.20213178414879823)])
def test_variational_information_agrees_with_public_code(teacher: Tensor, expected: float) -> None:
    assert float(vid()(*observed(SMALL, teacher))) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("variance", [1e-3, 5.0, 400.0])
def test_variances_start_where_they_should(variance: float) -> None:
    loss = VIDLoss(initial_variance=variance)
    loss.setup(setting((3, 5), (4, 7)))
    assert [tuple(scale.shape) for scale in loss.scales.values()] == [(5,), (7,)]
    start = F.softplus(loss.scales["stage2"].double()) + 1e-5
    torch.testing.assert_close(start, torch.full_like(start, variance), rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="initial_variance=0"):
        VIDLoss(initial_variance=0)


def test_variational_information_is_a_likelihood_of_normal_values() -> None:
    loss = vid()
    mean = loss.regressors["stage1"](SMALL)
    deviation = (F.softplus(loss.scales["stage1"]) + 1e-5).sqrt().view(1, -1, 1, 1)
    likelihood = torch.distributions.Normal(mean, deviation).log_prob(WIDE)
    constant = 0.5 * np.log(2 * np.pi)
    assert float(loss(*observed(SMALL, WIDE))) == pytest.approx(float(-likelihood.mean()) - constant, abs=1e-9)


# -- OFD -----------------------------------------------------------------------------------------------------------

NORM = nn.BatchNorm2d(5)
NORM.weight.data.copy_(torch.tensor([1.0, -0.5, 2.0, 0.1, 0.3]))
NORM.bias.data.copy_(torch.tensor([0.0, 0.4, -1.0, 0.5, -0.2]))
MARGINS = [-0.7978845834732056, -0.2837011218070984, -2.0183207988739014, -0.30000001192092896, -0.32820528745651245]


def test_margins_agree_with_public_code_and_with_random_numbers() -> None:
    margins = negative_mean(NORM)
    torch.testing.assert_close(margins, torch.tensor(MARGINS))
    values = torch.randn(400_000, 5, generator=torch.Generator().manual_seed(0)) * NORM.weight.detach() + NORM.bias
    for channel in (0, 1, 2, 4):
        below = values[:, channel][values[:, channel] < 0]
        assert float(below.mean()) == pytest.approx(MARGINS[channel], abs=0.01)


def test_margins_of_constant_channels_are_finite() -> None:
    norm = nn.BatchNorm2d(3)
    norm.weight.data.zero_()
    norm.bias.data.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(negative_mean(norm), torch.tensor([-1.0, 0.0, 0.0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("teacher", "expected"), [(WIDE, 198.50077988304213), (LARGE, 136.48090852027644)])
def test_partial_distance_agrees_with_public_code(teacher: Tensor, expected: float) -> None:
    student = wave(2, 5, 4, 4, pace=0.8, size=2.0)
    assert float(partial_distance(student, teacher, torch.tensor(MARGINS))) == pytest.approx(expected, rel=1e-9)


def test_partial_distance_by_hand() -> None:
    # Three places of one channel, margin -1: a positive target always counts, a negative one only from above.
    teacher = torch.tensor([2.0, -0.5, -3.0, -3.0]).view(1, 1, 2, 2)
    student = torch.tensor([0.0, 0.5, -4.0, 1.0]).view(1, 1, 2, 2)
    assert float(partial_distance(student, teacher, torch.tensor([-1.0]))) == 4.0 + 1.0 + 0.0 + 4.0


def ofd(stages: int = 1) -> OFDLoss:
    """The loss as ``attach`` leaves it for teachers of five channels, its connectors with waves for weights."""
    loss = OFDLoss()
    loss.setup(setting(*[(3, 5)] * stages))
    waves_for_weights(loss.connectors, 0.6, 0.2, 0.8)
    for i in range(1, stages + 1):
        loss._teacher_taps[i] = "before"
        loss.register_buffer(f"margin{i}", torch.tensor(MARGINS))
    return loss.double()


def test_shallow_stages_of_the_overhaul_count_half() -> None:
    loss = ofd(3)
    for i in (2, 3):
        loss.connectors[f"stage{i}"].load_state_dict(loss.connectors["stage1"].state_dict())
    student = Observation(features=dict.fromkeys((1, 2, 3), SMALL))
    parts = loss.terms(student, Observation(taps={"before": WIDE}))
    assert list(parts) == ["stage1", "stage2", "stage3"]
    expected = partial_distance(loss.connectors["stage1"](SMALL), WIDE, torch.tensor(MARGINS))
    for i, share in enumerate((4, 2, 1), 1):
        torch.testing.assert_close(parts[f"stage{i}"], expected / share)


# -- ReviewKD ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [(8, 0.7173714263463068), (4, 0.6388087869687445), (2, 0.8030781329443034), (1, 0.8188925008083887)],
)
def test_hierarchical_context_agrees_with_public_code(size: int, expected: float) -> None:
    student, teacher = wave(2, 5, size, size, pace=0.8), wave(2, 5, size, size, pace=1.7)
    assert float(hierarchical_context(student, teacher)) == pytest.approx(expected, abs=1e-12)


def review(**options: Any) -> ReviewKDLoss:
    loss = ReviewKDLoss(teacher_maps="stage", **options)
    loss.setup(setting((3, 5), (4, 6)))
    for k, block in enumerate(loss.double().blocks.values()):
        waves_for_weights(block, 0.7 + 0.31 * k, 0.13, 0.6)
    return loss


def two_stages() -> tuple[Observation, Observation]:
    student = Observation(features={1: wave(2, 3, 8, 8, pace=0.9), 2: wave(2, 4, 4, 4, pace=1.1)})
    return student, Observation(features={1: wave(2, 5, 8, 8, pace=1.7), 2: wave(2, 6, 2, 2, pace=1.3)})


def test_review_agrees_with_public_code() -> None:
    parts = review().terms(*two_stages())
    expected = {"stage1": 0.6151166455998632, "stage2": 0.4953448433778595, "pooled": 0.30958559759287785}
    assert {name: float(value) for name, value in parts.items()} == pytest.approx(expected, abs=1e-9)


def test_review_fuses_from_deep_to_shallow() -> None:
    student, teacher = two_stages()
    student.features[2].requires_grad_()
    parts = review(pooled=False).terms(student, teacher)
    assert list(parts) == ["stage1", "stage2"]
    # The shallow part sees the deep stage, not the other way round.
    assert torch.autograd.grad(parts["stage1"], student.features[2], retain_graph=True)[0].any()
    student.features[1].requires_grad_()
    parts = review(pooled=False).terms(student, teacher)
    assert torch.autograd.grad(parts["stage2"], student.features[1], allow_unused=True) == (None,)


def test_review_is_as_wide_as_the_deepest_stage_up_to_a_limit() -> None:
    loss = ReviewKDLoss(max_channels=8, stages=[1, 3])
    loss.setup(setting((3, 5), (4, 6), (32, 7)))
    assert list(loss.blocks) == ["stage1", "stage3", "pooled"]
    assert loss.blocks["stage1"].reduce[0].weight.shape == (8, 3, 1, 1)
    assert loss.blocks["pooled"].attend is None
    with pytest.raises(ValueError, match="teacher_maps='relu'"):
        ReviewKDLoss(teacher_maps="relu")


# -- all of them ---------------------------------------------------------------------------------------------------


def one_stage_review() -> ReviewKDLoss:
    loss = ReviewKDLoss(teacher_maps="stage")
    loss.setup(setting((3, 5)))
    return loss.double()


LOSSES = {"hint": FitNetsLoss, "at": ATLoss, "vid": vid, "ofd": ofd, "review": one_stage_review}


def widths(name: str) -> tuple[Tensor, Tensor]:
    return (wave(2, 5, 4, 4, pace=0.9), WIDE) if name == "hint" else (SMALL, WIDE)


@pytest.mark.parametrize("name", LOSSES)
def test_slopes(name: str) -> None:
    loss: Loss = LOSSES[name]()
    student, teacher = widths(name)
    assert gradcheck(lambda x: loss(*observed(x, teacher)), (student.clone().requires_grad_(),))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_reach_the_student_and_own_parameters_alone(name: str) -> None:
    loss: Loss = LOSSES[name]()
    student, teacher = (x.clone().requires_grad_() for x in widths(name))
    loss(*observed(student, teacher)).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    assert all(parameter.grad is not None for parameter in loss.parameters())


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4, 1e12])
@pytest.mark.parametrize("name", LOSSES)
def test_extreme_values_in_bf16_stay_finite(name: str, size: float) -> None:
    loss: Loss = LOSSES[name]().float()
    student, teacher = widths(name)
    ours = (size * student).bfloat16().requires_grad_()
    value = loss(*observed(ours, (-size * teacher).bfloat16()))
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(ours.grad).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in loss.parameters())
