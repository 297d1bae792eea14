"""KD on a detector's class logits, by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_mm.losses import Observation

from ..helpers.losses import det_kd
from ..helpers.waves import wave

K = 3


def value(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    return det_kd(K, **options)(Observation(logits=student), Observation(logits=teacher))


def softmax(row: list[float], temperature: float) -> list[float]:
    exps = [math.exp(z / temperature) for z in row]
    return [e / sum(exps) for e in exps]


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return wave(*shape, pace=0.9, size=3.0), wave(*shape, pace=1.7, size=3.0)


def softmax_divergence(z_s: list[float], z_t: list[float], temperature: float) -> float:
    p, q = softmax(z_t, temperature), softmax(z_s, temperature)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def sigmoid_divergence(z_s: list[float], z_t: list[float], temperature: float) -> float:
    pairs = [(sigmoid(b / temperature), sigmoid(a / temperature)) for a, b in zip(z_s, z_t, strict=True)]
    return sum(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)) for p, q in pairs)


def positions(student: Tensor, teacher: Tensor) -> list[tuple[list[float], list[float]]]:
    return list(zip(student.flatten(0, -2).tolist(), teacher.flatten(0, -2).tolist(), strict=True))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_regions_by_hand(temperature: float) -> None:
    student, teacher = pair(5, K + 1)
    expected = sum(softmax_divergence(*rows, temperature) for rows in positions(student, teacher)) / 5
    found = value(student, teacher, temperature=temperature)
    assert float(found) == pytest.approx(temperature**2 * expected, rel=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("background", [False, True], ids=["sigmoids", "softmax"])
def test_grid_by_hand(background: bool, temperature: float) -> None:
    student, teacher = pair(2, 4, K + background)
    rows = positions(student, teacher)
    weights = [max(softmax(z_t, 1.0)[:-1]) if background else max(map(sigmoid, z_t)) for _, z_t in rows]
    divergence = softmax_divergence if background else sigmoid_divergence
    total = sum(weight * divergence(*pair, temperature) for weight, pair in zip(weights, rows, strict=True))
    found = value(student, teacher, temperature=temperature)
    assert float(found) == pytest.approx(temperature**2 * total / sum(weights), rel=1e-10)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_quality_weights_positions_by_the_largest_difference(gamma: float) -> None:
    student, teacher = pair(2, 4, K)
    total = mass = 0.0
    for z_s, z_t in positions(student, teacher):
        mass += max(map(sigmoid, z_t))
        weight = max(abs(sigmoid(a) - sigmoid(b)) for a, b in zip(z_s, z_t, strict=True)) ** gamma
        total += weight * sigmoid_divergence(z_s, z_t, 1.0)
    found = value(student, teacher, weighting="quality", gamma=gamma)
    assert float(found) == pytest.approx(total / max(mass, 1), rel=1e-10)
    # A teacher that finds nothing: the mass counts as 1.
    background = torch.full_like(teacher, -9.0)
    expected = 2 * 4 * (sigmoid(-8.0) - sigmoid(-9.0)) ** gamma * sigmoid_divergence([-8.0] * K, [-9.0] * K, 1.0)
    found = value(background + 1, background, weighting="quality", gamma=gamma)
    assert float(found) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(6, K + 1), (2, 3, K), (2, 3, K + 1)])
def test_equal_logits_cost_nothing_and_the_target_may_be_trained(shape: tuple[int, ...]) -> None:
    student, teacher = (z.requires_grad_() for z in pair(*shape))
    equal = student.detach().clone().requires_grad_()
    same = value(student, equal)
    assert float(same) == pytest.approx(0.0, abs=1e-12)
    assert all(gradient.abs().max() < 1e-12 for gradient in torch.autograd.grad(same, (student, equal)))
    # An adapter of the teacher's logits is trained through the teacher's side.
    assert torch.autograd.grad(value(student, teacher), teacher)[0].abs().max() > 1e-3
