"""SRD and review on cells: values by hand, what has no gradient, what is left out."""

from math import log
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_mm.losses import CellResponseLoss, CellReviewLoss, Observation
from kd_mm.tasks.targets import CellTargets

from ..helpers.losses import of_stages
from ..helpers.waves import wave


def targets(present: list[Any], counted: list[Any]) -> SimpleNamespace:
    """Of one image: present (K, h, w), counted (h, w)."""
    found = CellTargets(torch.tensor([present]).double(), torch.tensor([counted]).double())
    return SimpleNamespace(cells=lambda grid: found)


def logits(*rows: list[float]) -> Tensor:
    """Of one image, K x 1 x w."""
    return torch.tensor(rows, dtype=torch.float64)[None, :, None]


# Two classes, three cells: an object of class 0, none, a difficult object alone.
CELLS = targets([[[1, 0, 0]], [[0, 0, 0]]], [[1, 1, 0]])
TEACHER = logits([log(3), 0.0, 5.0], [0.0, -log(3), -5.0])  # probabilities 3/4 1/2 -, 1/2 1/4 -
STUDENT = logits([0.0, 0.0, -5.0], [0.0, 0.0, 5.0])  # all 1/2, but for the last


def binary(p: float, q: float) -> float:
    return p * log(p / q) + (1 - p) * log((1 - p) / (1 - q))


def test_divergence_by_hand() -> None:
    # Cell 1: weight 1/4, cell 2: weight 1/4; the mass over the positive cell is 3/4 + 1/2.
    expected = (0.25 * binary(0.75, 0.5) + 0.25 * binary(0.25, 0.5)) / 1.25
    value = CellResponseLoss()(of_stages(STUDENT, targets=CELLS), of_stages(TEACHER))
    assert float(value) == pytest.approx(expected, rel=1e-12)
    squared = CellResponseLoss(gamma=2.0)(of_stages(STUDENT, targets=CELLS), of_stages(TEACHER))
    assert float(squared) == pytest.approx(expected / 4, rel=1e-12)
    p = 3**0.5 / (1 + 3**0.5)
    expected = 4 * (0.25 * binary(p, 0.5) + 0.25 * binary(1 - p, 0.5)) / 1.25
    value = CellResponseLoss(temperature=2.0)(of_stages(STUDENT, targets=CELLS), of_stages(TEACHER))
    assert float(value) == pytest.approx(expected, rel=1e-12)
    empty = targets([[[0, 0, 0]], [[0, 0, 0]]], [[1, 1, 0]])
    value = CellResponseLoss()(of_stages(STUDENT, targets=empty), of_stages(TEACHER))
    assert float(value) == pytest.approx(0.25 * binary(0.75, 0.5) + 0.25 * binary(0.25, 0.5), rel=1e-12)


def test_review_learns_from_the_next_deeper_stage_which_stays_as_it_is() -> None:
    stages = [STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()]
    value = CellReviewLoss()(of_stages(*stages, targets=CELLS))
    expected = CellResponseLoss()(of_stages(STUDENT, targets=CELLS), of_stages(TEACHER))
    assert float(value) == pytest.approx(float(expected), rel=1e-12)
    value.backward()
    shallow, deep = (stage.grad for stage in stages)
    assert shallow is not None
    assert deep is None or not deep.any()
    # The weights are constants: w (sigmoid(b) - sigmoid(a)) / n, and nothing where only a difficult object is.
    by_hand = 0.25 * (STUDENT.sigmoid() - TEACHER.sigmoid()) / 1.25 * torch.tensor([1.0, 1.0, 0.0])
    torch.testing.assert_close(shallow, by_hand)


def test_equal_networks_and_stages_give_nothing() -> None:
    alike = [wave(2, 3, 2, 2, pace=0.9, size=3.0)] * 3
    found = CellTargets(torch.ones(2, 3, 2, 2).double(), torch.ones(2, 2, 2).double())
    student = of_stages(*alike, targets=SimpleNamespace(cells=lambda grid: found))
    assert float(CellResponseLoss()(student, of_stages(*alike))) == 0.0
    assert float(CellReviewLoss()(student)) == 0.0


def test_a_teachers_grid_is_brought_to_the_students() -> None:
    fine = TEACHER.repeat_interleave(2, dim=3).repeat_interleave(2, dim=2)
    coarse, other = (
        CellResponseLoss()(of_stages(STUDENT, targets=CELLS), of_stages(teacher)) for teacher in (TEACHER, fine)
    )
    torch.testing.assert_close(coarse, other)


@pytest.mark.parametrize("loss", [CellResponseLoss(), CellReviewLoss()])
def test_stages_whose_exit_knows_nothing_are_left_out(loss: Any) -> None:
    student = of_stages(STUDENT, TEACHER, STUDENT, targets=CELLS)
    teacher = of_stages(TEACHER, STUDENT, TEACHER)
    before = loss.terms(student, teacher)
    loss.leave_out([2])
    after = loss.terms(student, teacher)
    if isinstance(loss, CellResponseLoss):
        assert (list(before.names), list(after.names)) == (["stage1", "stage2", "stage3"], ["stage1", "stage3"])
        torch.testing.assert_close(after.values, before.values[[0, 2]])
    else:
        assert (list(before.names), list(after.names)) == (["stage2to1", "stage3to2"], ["stage3to1"])
        assert float(after.values) == 0.0  # the first and the third stage are alike
    loss.leave_out([1, 3])
    nothing = loss(student, teacher if isinstance(loss, CellResponseLoss) else Observation())
    assert float(nothing) == 0.0
