"""Arithmetic that losses share: worked numbers, and torch's pooling where runs are deterministic."""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from kd_mm.losses.functional import (
    average_by_products,
    bernoulli_divergence,
    kl_divergence,
    same_size,
    standardized,
    standardized_channels,
)
from kd_mm.losses.reviewkd import hierarchical_context

from ..devices import DEVICES
from ..helpers.waves import wave


def test_kl_divergence_value_and_shift_invariance() -> None:
    student = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    teacher = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
    for shift_student, shift_teacher in [(0, 0), (0, 5), (-7, 0)]:
        value = kl_divergence(student + shift_student, teacher + shift_teacher, 2.0)
        assert float(value) == pytest.approx(0.123962, abs=1e-6)


def test_bernoulli_divergence() -> None:
    for temperature, expected in ((1.0, 0.065406), (2.0, 0.072682)):
        teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.0, 0.0]])
        assert float(bernoulli_divergence(student, teacher, temperature)) == pytest.approx(expected, abs=1e-6)
        mask = torch.tensor([[0.0, 1.0]])
        assert float(bernoulli_divergence(student, teacher, temperature, mask)) == 0.0


def test_stages_are_compared_one_by_one() -> None:
    student, teacher = wave(3, 4, 5, pace=0.9), wave(3, 4, 5, pace=1.7)
    mask = (wave(4, 5) > 0).double()
    for divergence, more in ((kl_divergence, ()), (bernoulli_divergence, (mask,))):
        values = divergence(student, teacher, 2.0, *more)
        expected = [divergence(*pair, 2.0, *more) for pair in zip(student, teacher, strict=True)]
        torch.testing.assert_close(values, torch.stack(expected))


def test_standardized_logits_and_channels() -> None:
    rows = standardized(wave(3, 9, size=40.0))
    assert rows.mean(dim=1).abs().max() < 1e-12
    assert rows.std(dim=1).tolist() == pytest.approx([1.0] * 3, abs=1e-6)
    assert torch.equal(standardized(torch.full((2, 4), 3.0)), torch.zeros(2, 4))
    feature = wave(2, 3, 4, 5, size=40.0)
    result, std, mean = standardized_channels(feature)
    torch.testing.assert_close(result * std + mean, feature, atol=1e-5, rtol=0)
    assert torch.equal(standardized_channels(torch.ones(1, 3, 1, 1))[0], torch.zeros(1, 3, 1, 1))


def test_products_are_torchs_pooling() -> None:
    for size in ((4, 4), (2, 3), (1, 1), (8, 9)):
        feature, weights = wave(2, 3, 7, 9).requires_grad_(), wave(2, 3, *size, pace=1.3)
        result, expected = average_by_products(feature, size), F.adaptive_avg_pool2d(feature, size)
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
        first, second = (torch.autograd.grad((weights * pooled).sum(), feature)[0] for pooled in (result, expected))
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.usefixtures("deterministic")
def test_losses_that_pool_have_a_gradient_in_a_deterministic_run(device: str) -> None:
    maps = wave(2, 3, 8, 8, pace=0.9).float(), wave(2, 3, 5, 5, pace=1.7).float()
    gradients = []
    for name in ("cpu", device):
        student, teacher = (feature.detach().to(name) for feature in maps)
        student.requires_grad_()
        pooled, teacher = same_size(student, teacher)
        (F.mse_loss(pooled, teacher) + hierarchical_context(student, student.detach().flip(0))).backward()
        gradients.append(student.grad.cpu())
    torch.testing.assert_close(gradients[1], gradients[0])
