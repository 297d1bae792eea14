"""Losses on logits, of classifiers and of detectors, against public code and by hand."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses import DISTLoss, DKDLoss, KDLoss, Loss, Observation, StageResponseLoss

from ..helpers.losses import det_kd, of_logits
from ..helpers.waves import wave

FIXTURE = of_logits(
    torch.tensor([[1.0, 0, -1], [0.5, 0.5, 0]], dtype=torch.float64),
    torch.tensor([[2.0, 1, 0], [0, 1, 2]], dtype=torch.float64),
    torch.tensor([0, 2]),
)
WAVES = of_logits(wave(4, 6, pace=0.9, size=2.0), wave(4, 6, pace=1.7, size=3.0) + 0.5, torch.tensor([0, 5, 2, 3]))


@pytest.mark.parametrize(
    ("loss", "pair", "expected"),
    [
        (KDLoss(temperature=1.0), WAVES, 1.4390219805804),
        (KDLoss(temperature=4.0), FIXTURE, 0.263687),
        (KDLoss(temperature=2.0, standardize=True), FIXTURE, 0.604914),
        (KDLoss(temperature=2.0, standardize=True), WAVES, 0.7309082436932184),
        (DKDLoss(), FIXTURE, 0.723791),
        (DKDLoss(), WAVES, 22.225359926810768),
        (DKDLoss(temperature=1.0, beta=0.5), WAVES, 0.7511583416626845),
        (DKDLoss(temperature=2.0, alpha=2.0, beta=3.0, standardize=True), WAVES, 2.4143444741625775),
        (DISTLoss(temperature=4.0), FIXTURE, 20.530202),
        (DISTLoss(temperature=4.0), WAVES, 24.600337369080723),
        (DISTLoss(), WAVES, 1.1742488239375877),
        (DISTLoss(temperature=2.0, beta=2.0, gamma=0.5), WAVES, 7.480327084749),
    ],
)
def test_agrees_with_public_code(loss: Loss, pair: tuple, expected: float) -> None:
    assert float(loss(*pair)) == pytest.approx(expected, abs=1e-6)


def test_standardised_logits_have_no_scale_and_no_level() -> None:
    for kind in (KDLoss, DKDLoss, DISTLoss, StageResponseLoss):
        student, teacher = WAVES
        value = float(kind(standardize=True)(student, teacher))
        changed = of_logits(7 * student.logits - 3, 0.2 * teacher.logits + 11, student.targets)
        assert float(kind(standardize=True)(*changed)) == pytest.approx(value, abs=1e-5)
        assert float(kind()(*changed)) != pytest.approx(float(kind()(student, teacher)), abs=1e-3)
        equal = of_logits(3 * teacher.logits, teacher.logits, student.targets)
        assert float(kind(standardize=True)(*equal)) == pytest.approx(0.0, abs=1e-6)


def test_sigmoids_are_not_standardised() -> None:
    for kind in (KDLoss, StageResponseLoss):
        with pytest.raises(
            ValueError, match=f"{kind.__name__}: standardize=True needs classes that exclude each other"
        ):
            kind(standardize=True, multilabel=True)


def test_dkd_with_beta_one_minus_p_is_hintons_kd() -> None:
    student, teacher = WAVES
    p = (teacher.logits / 4).softmax(1).gather(1, student.targets[:, None])[:, 0]
    total = 0.0
    for i in range(4):
        row = of_logits(student.logits[i : i + 1], teacher.logits[i : i + 1], student.targets[i : i + 1])
        total += float(DKDLoss(beta=float(1 - p[i]))(*row)) / 4
    assert total == pytest.approx(float(KDLoss(temperature=4.0)(student, teacher)), abs=1e-10)


def test_soft_labels_of_dkd_count_as_their_largest_class_and_other_targets_are_refused() -> None:
    student, teacher = WAVES
    soft = F.one_hot(student.targets, 6) * 0.6 + 0.4 / 6
    hard = DKDLoss()(student, teacher)
    assert torch.equal(DKDLoss()(*of_logits(student.logits, teacher.logits, soft)), hard)
    with pytest.raises(ValueError, match="one labelled class for each of the 4 rows of logits"):
        DKDLoss()(*of_logits(student.logits, teacher.logits, torch.tensor([1])))


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


def test_regions_by_hand() -> None:
    student, teacher = pair(5, K + 1)
    for temperature in (1.0, 2.0):
        expected = sum(softmax_divergence(*rows, temperature) for rows in positions(student, teacher)) / 5
        found = value(student, teacher, temperature=temperature)
        assert float(found) == pytest.approx(temperature**2 * expected, rel=1e-10)


@pytest.mark.parametrize("background", [False, True], ids=["sigmoids", "softmax"])
def test_grid_by_hand(background: bool) -> None:
    student, teacher = pair(2, 4, K + background)
    rows = positions(student, teacher)
    weights = [max(softmax(z_t, 1.0)[:-1]) if background else max(map(sigmoid, z_t)) for _, z_t in rows]
    divergence = softmax_divergence if background else sigmoid_divergence
    for temperature in (1.0, 2.0):
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


def test_equal_logits_cost_nothing_and_the_target_may_be_trained() -> None:
    for shape in ((6, K + 1), (2, 3, K), (2, 3, K + 1)):
        student, teacher = (z.requires_grad_() for z in pair(*shape))
        equal = student.detach().clone().requires_grad_()
        same = value(student, equal)
        assert float(same) == pytest.approx(0.0, abs=1e-12)
        assert all(gradient.abs().max() < 1e-12 for gradient in torch.autograd.grad(same, (student, equal)))
        # An adapter of the teacher's logits is trained through the teacher's side.
        assert torch.autograd.grad(value(student, teacher), teacher)[0].abs().max() > 1e-3
