"""CrossKD's loss. Public values: jbwang1997/CrossKD and the mmdet losses in its configs, float64."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kd_mm.losses.crosskd import CrossKDLoss
from kd_mm.losses.dense_output import DenseOutput
from kd_mm.losses.observation import DenseAssignment

from ..helpers.dense_heads import Detector
from ..helpers.waves import wave

COUNTED = torch.tensor([[1, 1, 0, 1, 1, 1], [1, 0, 1, 1, 1, 1]], dtype=torch.float64)
POSITIVE = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]], dtype=torch.bool)


def corners(pace: float) -> Tensor:
    centre, half = wave(2, 6, 2, pace=pace, size=20.0) + 40, wave(2, 6, 2, pace=pace + 0.4, size=6.0) + 12
    return torch.cat([centre - half, centre + half], dim=-1)


def same(reg: Tensor) -> Tensor:
    return reg


def outputs(bins: bool = False, assigned: bool = True) -> tuple[DenseOutput, DenseOutput]:
    """Return the crossed and the teacher's output at six positions of two images; regressions are boxes already."""
    crossed_reg, teacher_reg = (wave(2, 6, 20, pace=p, size=2.0) if bins else None for p in (0.9, 1.7))
    if crossed_reg is None or teacher_reg is None:
        crossed_reg, teacher_reg = corners(0.9), corners(1.1)
    assignment = DenseAssignment(COUNTED, POSITIVE, 3.0) if assigned else None
    crossed = DenseOutput(wave(2, 6, 3, pace=0.9, size=3.0), crossed_reg, same, wave(2, 6, pace=0.9), assignment)
    return crossed, DenseOutput(wave(2, 6, 3, pace=1.7, size=2.0), teacher_reg, same, wave(2, 6, pace=1.7))


@pytest.mark.parametrize(
    ("options", "bins", "term", "expected"),
    [
        ({}, False, "cls", 6.497073803993773),
        ({"focus": 2.0, "cls_weight": 0.4}, False, "cls", 0.4 * 4.246148723985019),
        ({}, False, "box", 3.3213026026679007),
        ({"box": "giou", "box_weight": 2.0}, False, "box", 2 * 3.3213026026679007),
        ({"box": "iou"}, False, "box", 21.870499589185044),
        ({}, True, "box", 4 * 1.3141843395675052),
        ({"box": "kl", "box_weight": 1.0}, True, "box", 1.3141843395675052),
        ({"quality_weight": 1.0}, False, "quality", 0.7503602504730225),
    ],
)
def test_agrees_with_public_code(options: dict, bins: bool, term: str, expected: float) -> None:
    terms = CrossKDLoss(**options).compare(*outputs(bins))
    assert float(terms[term]) == pytest.approx(expected, rel=1e-6)
    assert set(terms) == {"cls", "box", "quality"} if "quality_weight" in options else {"cls", "box"}


@pytest.mark.parametrize(
    ("student", "teacher", "expected"), [(4, 4, 2), (2, 4, 0), (1, 1, 0)], ids=["four", "two and four", "one"]
)
def test_all_but_one_convolution_remain_the_students_by_default(student: int, teacher: int, expected: int) -> None:
    detectors = [Detector("RetinaHead", stacked_convs=convolutions) for convolutions in (student, teacher)]
    taps, _ = CrossKDLoss().extra_taps(*detectors)
    assert {tap.partition("#")[0] for tap in taps} == {f"bbox_head.{side}_convs.{expected}" for side in ("cls", "reg")}


def test_equal_outputs_cost_nothing() -> None:
    crossed, _ = outputs()
    terms = CrossKDLoss().compare(crossed, crossed)
    assert [float(terms[name]) for name in ("cls", "box")] == pytest.approx([0, 0], abs=1e-12)


def test_without_an_assignment_every_position_counts_by_the_teachers_confidence() -> None:
    crossed, target = outputs(assigned=False)
    terms = CrossKDLoss().compare(crossed, target)
    p, q = (1 / (1 + np.exp(-output.cls.numpy())) for output in (target, crossed))
    cross = -(p * np.log(q) + (1 - p) * np.log(1 - q)) * np.abs(p - q)
    assert float(terms["cls"]) == pytest.approx(cross.sum() / p.max(axis=-1).sum(), rel=1e-9)


def test_wrong_options_and_heads() -> None:
    crossed, target = outputs()
    with pytest.raises(ValueError, match="box='kl' compares distributions over bins"):
        CrossKDLoss(box="kl").compare(crossed, target)
    with pytest.raises(ValueError, match="quality_weight needs a head with centerness"):
        CrossKDLoss(quality_weight=1.0).compare(*outputs(assigned=False))
    short = DenseOutput(target.cls[:, :4], target.reg[:, :4], same)
    with pytest.raises(ValueError, match=r"\(2, 6, 3\) class logits .* the teacher's own \(2, 4, 3\)"):
        CrossKDLoss().compare(crossed, short)


@pytest.mark.parametrize(
    ("box", "expected"),
    [("iou", [math.log(7), -math.log(1e-6), 0.0]), ("giou", [1 - 1 / 7 + 2 / 9, 4 / 3, 0.0])],
)
def test_boxes_by_hand(box: str, expected: list[float]) -> None:
    first = torch.tensor([[[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0], [3.0, 3.0, 5.0, 7.0]]])
    second = torch.tensor([[[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0], [3.0, 3.0, 5.0, 7.0]]])
    heads = [DenseOutput(torch.zeros(1, 3, 1), boxes, same) for boxes in (first, second)]
    # Confidence 1/2 at each of three positions, whose sum 3/2 is the divisor.
    assert float(CrossKDLoss(box=box).compare(*heads)["box"]) == pytest.approx(sum(expected) / 3, rel=1e-5)


@pytest.mark.parametrize("box", ["iou", "giou"])
def test_infinite_boxes_have_a_finite_loss(box: str) -> None:
    infinite = torch.tensor([[[-torch.inf, 0.0, torch.inf, 5.0]]], requires_grad=True)
    boxes = (infinite, torch.tensor([[[0.0, 0.0, 4.0, 4.0]]]))
    value = CrossKDLoss(box=box).compare(*(DenseOutput(torch.zeros(1, 1, 1), reg, same) for reg in boxes))["box"]
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(infinite.grad).all()
