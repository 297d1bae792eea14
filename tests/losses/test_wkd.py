"""WKD. Public values: JiamingLv/WKD, float64."""

import math

import pytest
import torch
from torch import Tensor, nn

from kd_mm.losses import WKDFeatureLoss, WKDLogitsLoss
from kd_mm.losses.wkd import transport_cost
from kd_mm.utils.suggest import StepError

from ..helpers.errors import assert_refused
from ..helpers.losses import context, of_logits, of_maps, wkd_logits
from ..helpers.waves import wave
from .test_logits import WAVES


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 3.087087938429204),
        (
            {"sharpness": 2.0, "temperature": 2.0, "gamma": 1.0, "regularization": 0.2, "iterations": 3},
            0.24939729789711546,
        ),
        ({"gamma": 0.0}, 0.07391482076863896),
    ],
)
def test_logits_agree_with_public_code(options: dict, expected: float) -> None:
    assert float(wkd_logits(6, **options)(*WAVES)) == pytest.approx(expected, rel=1e-6)


def by_sinkhorn(own: Tensor, target: Tensor, cost: Tensor, regularization: float, iterations: int) -> float:
    """Return the cost of one row's plan, class by class, with the public code's 1e-8 in the denominators."""
    count = len(own)
    kernel = [[math.exp(-float(cost[i, j]) / regularization) for j in range(count)] for i in range(count)]
    rows, columns = [1 / count] * count, [0.0] * count
    for _ in range(iterations):
        columns = [float(target[j]) / (sum(kernel[i][j] * rows[i] for i in range(count)) + 1e-8) for j in range(count)]
        rows = [float(own[i]) / (sum(kernel[i][j] * columns[j] for j in range(count)) + 1e-8) for i in range(count)]
    return sum(rows[i] * kernel[i][j] * columns[j] * float(cost[i, j]) for i in range(count) for j in range(count))


def test_the_other_classes_are_moved_by_sinkhorns_plan_without_the_label() -> None:
    student, teacher = WAVES
    loss, distances = wkd_logits(6, temperature=2.0, gamma=1.0), []
    for z, t, y in zip(student.logits, teacher.logits, student.targets, strict=True):
        others = [k for k in range(6) if k != y]
        own, target = ((side[others] / 2).softmax(dim=0) for side in (z, t))
        distances.append(by_sinkhorn(own, target, loss.cost[others][:, others], 0.05, 10))
    value = loss.terms(student, teacher)["others"]
    assert float(value) == pytest.approx(sum(distances) / len(distances), rel=1e-6)


def test_transport_by_hand() -> None:
    cost = torch.tensor([[0.0, 0.5, 0.25], [0.5, 0, 0.75], [0.25, 0.75, 0]], dtype=torch.float64)
    student = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.25, 0.25, 0.5]], dtype=torch.float64)
    teacher = torch.tensor([[0, 1.0, 0], [0, 0, 1], [1, 0, 0]], dtype=torch.float64)
    expected = [0.5, (0.25 + 0.75) / 2, (0.5 + 2 * 0.25) / 4]
    assert transport_cost(student, teacher, cost, 0.05, 10).tolist() == pytest.approx(expected, abs=1e-4)


def test_classes_are_related_by_the_teachers_classifier_or_have_to_be_prepared() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5, bias=False))
    rows = torch.tensor([[1.0, 0], [0, 2], [3, 3], [-1, 0], [0, 1]])
    network[1].weight.data.copy_(rows)  # type: ignore[operator]
    loss = WKDLogitsLoss(relation="classifier", sharpness=2.0)
    loss.extra_taps(nn.Identity(), network)
    loss.setup(context())
    expected = [0, 1 - math.exp(-2), 1 - math.exp(-2 * (1 - math.sqrt(0.5))), 1 - math.exp(-4), 1 - math.exp(-2)]
    assert loss.cost[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert loss.preparation() is None
    loss.extra_taps(nn.Identity(), network[0])
    assert_refused("no linear layer to the 5 classes; take relation='cka'", loss.setup, context())
    pair = of_logits(wave(2, 4), wave(2, 4), torch.tensor([0, 3]))
    with pytest.raises(StepError, match="relations of the classes are not prepared"):
        WKDLogitsLoss()(*pair)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.040787301343647386),
        ({"grid": 2, "mean_weight": 1.0}, 0.031156432395113863),
        ({"grid": 3, "mean_weight": 8.0}, 3.5361035085901515),
    ],
)
def test_features_agree_with_public_code(options: dict, expected: float) -> None:
    maps = of_maps(wave(2, 5, 7, 6, pace=0.8), wave(2, 5, 8, 8, pace=1.7))
    assert float(WKDFeatureLoss(**options)(*maps)) == pytest.approx(expected, rel=1e-9)


def test_features_by_hand() -> None:
    # Means 1 and 2.5, unbiased variances (0 + 4 + 1 + 1) / 3 and (0.25 + 20.25 + 6.25 + 6.25) / 3.
    student = torch.tensor([[[[1.0, 3], [0, 0]]]], dtype=torch.float64)
    teacher = torch.tensor([[[[3.0, 7], [0, 0]]]], dtype=torch.float64)
    expected = 4 * (1 - 2.5) ** 2 + (math.sqrt(2 + 1e-5) - math.sqrt(11 + 1e-5)) ** 2
    assert float(WKDFeatureLoss()(*of_maps(student, teacher))) == pytest.approx(expected, abs=1e-9)
    # One position a cell has no deviation.
    assert float(WKDFeatureLoss(grid=2)(*of_maps(student, teacher))) == pytest.approx(4 * (4 + 16) / 4, abs=1e-9)
