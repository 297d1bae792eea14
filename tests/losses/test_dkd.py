"""DKD. Public values: mdistiller, float64."""

import pytest
import torch
import torch.nn.functional as F

from kd_mm.losses import DKDLoss, KDLoss

from ..helpers.losses import of_logits
from .test_kd import FIXTURE, WAVES


@pytest.mark.parametrize(
    ("options", "pair", "expected"),
    [
        ({}, FIXTURE, 0.723791),
        ({}, WAVES, 22.225359926810768),
        ({"temperature": 1.0, "beta": 0.5}, WAVES, 0.7511583416626845),
        ({"temperature": 2.0, "alpha": 2.0, "beta": 3.0, "standardize": True}, WAVES, 2.4143444741625775),
    ],
)
def test_agrees_with_public_code(options: dict, pair: tuple, expected: float) -> None:
    assert float(DKDLoss(**options)(*pair)) == pytest.approx(expected, abs=1e-6)


def test_beta_one_minus_p_is_hintons_kd() -> None:
    student, teacher = WAVES
    p = (teacher.logits / 4).softmax(1).gather(1, student.targets[:, None])[:, 0]
    total = 0.0
    for i in range(4):
        row = of_logits(student.logits[i : i + 1], teacher.logits[i : i + 1], student.targets[i : i + 1])
        total += float(DKDLoss(beta=float(1 - p[i]))(*row)) / 4
    assert total == pytest.approx(float(KDLoss(temperature=4.0)(student, teacher)), abs=1e-10)


def test_soft_labels_count_as_their_largest_class_and_other_targets_are_refused() -> None:
    student, teacher = WAVES
    soft = F.one_hot(student.targets, 6) * 0.6 + 0.4 / 6
    hard = DKDLoss()(student, teacher)
    assert torch.equal(DKDLoss()(*of_logits(student.logits, teacher.logits, soft)), hard)
    with pytest.raises(ValueError, match="one labelled class for each of the 4 rows of logits"):
        DKDLoss()(*of_logits(student.logits, teacher.logits, torch.tensor([1])))
