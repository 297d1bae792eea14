"""CrossKD's loss against numbers of its public code, independent arithmetic, and extreme values.

The golden numbers come from jbwang1997/CrossKD and the mmdet losses in its configs, run on the same waves in float64.
"""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import Tensor
from torch.autograd import gradcheck

from kd_mm.losses.crosskd import CrossKDLoss
from kd_mm.losses.dense_outputs import DenseOutput
from kd_mm.losses.observation import DenseAssignment
from kd_mm.registry import MODELS

from ..helpers.waves import wave
from .test_detection_baselines import RECIPES

COUNTED = torch.tensor([[1, 1, 0, 1, 1, 1], [1, 0, 1, 1, 1, 1]], dtype=torch.float64)
POSITIVE = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]], dtype=torch.bool)


def terms(loss: CrossKDLoss, student: Any, teacher: Any) -> dict[str, Tensor]:
    return loss.compare(student.crossed, teacher.dense)


def corners(pace: float) -> Tensor:
    centre, half = wave(2, 6, 2, pace=pace, size=20.0) + 40, wave(2, 6, 2, pace=pace + 0.4, size=6.0) + 12
    return torch.cat([centre - half, centre + half], dim=-1)


def outputs(bins: bool = False, assigned: bool = True) -> tuple[SimpleNamespace, SimpleNamespace]:
    """Two heads' outputs at six positions of two images; box regressions are boxes already."""
    reg = (wave(2, 6, 20, pace=0.9, size=2.0), wave(2, 6, 20, pace=1.7, size=2.0)) if bins else None
    crossed_reg, dense_reg = reg or (corners(0.9), corners(1.1))
    assignment = DenseAssignment(COUNTED, POSITIVE, 3.0) if assigned else None
    crossed = DenseOutput(
        wave(2, 6, 3, pace=0.9, size=3.0), crossed_reg, lambda boxes: boxes, wave(2, 6, pace=0.9), assignment
    )
    dense = DenseOutput(wave(2, 6, 3, pace=1.7, size=2.0), dense_reg, lambda boxes: boxes, wave(2, 6, pace=1.7))
    return SimpleNamespace(crossed=crossed), SimpleNamespace(dense=dense)


@pytest.mark.parametrize(
    ("options", "bins", "part", "expected"),
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
def test_crosskd_agrees_with_public_code(options: dict, bins: bool, part: str, expected: float) -> None:
    parts = terms(CrossKDLoss(**options), *outputs(bins))
    assert float(parts[part]) == pytest.approx(expected, rel=1e-6)
    assert set(parts) == {"cls", "box", "quality"} if "quality_weight" in options else {"cls", "box"}


def test_crosskd_of_equal_outputs_is_nothing() -> None:
    student, _ = outputs()
    parts = terms(CrossKDLoss(), student, SimpleNamespace(dense=student.crossed))
    assert float(parts["cls"]) == pytest.approx(0, abs=1e-12)
    assert float(parts["box"]) == pytest.approx(0, abs=1e-12)


def test_crosskd_without_an_assignment_counts_every_position_by_the_teachers_confidence() -> None:
    student, teacher = outputs(assigned=False)
    parts = terms(CrossKDLoss(), student, teacher)
    p = 1 / (1 + np.exp(-teacher.dense.cls.numpy()))
    z = student.crossed.cls.numpy()
    q = 1 / (1 + np.exp(-z))
    cross = -(p * np.log(q) + (1 - p) * np.log(1 - q)) * np.abs(p - q)
    assert float(parts["cls"]) == pytest.approx(cross.sum() / p.max(axis=-1).sum(), rel=1e-9)


def test_crosskd_says_what_does_not_fit() -> None:
    student, teacher = outputs()
    with pytest.raises(ValueError, match="box='kl' compares distributions over bins"):
        terms(CrossKDLoss(box="kl"), student, teacher)
    with pytest.raises(ValueError, match="quality_weight needs a head with centerness"):
        terms(CrossKDLoss(quality_weight=1.0), *outputs(assigned=False))
    with pytest.raises(ValueError, match="box='l1' is unknown"):
        CrossKDLoss(box="l1")
    short = DenseOutput(teacher.dense.cls[:, :4], teacher.dense.reg[:, :4], teacher.dense.decode)
    with pytest.raises(ValueError, match=r"\(2, 6, 3\) class logits .* the teacher's own \(2, 4, 3\)"):
        terms(CrossKDLoss(), student, SimpleNamespace(dense=short))


@pytest.mark.parametrize(
    ("box", "expected"), [("iou", [math.log(7), -math.log(1e-6), 0.0]), ("giou", [1 - 1 / 7 + 2 / 9, 4 / 3, 0.0])]
)
def test_boxes_by_hand(box: str, expected: list[float]) -> None:
    first = torch.tensor([[[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0], [3.0, 3.0, 5.0, 7.0]]])
    second = torch.tensor([[[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0], [3.0, 3.0, 5.0, 7.0]]])
    heads = [DenseOutput(torch.zeros(1, 3, 1), boxes, lambda reg: reg) for boxes in (first, second)]
    # Confidence 1/2 at each of three positions, whose sum 3/2 is the divisor.
    assert float(CrossKDLoss(box=box).compare(*heads)["box"]) == pytest.approx(sum(expected) / 3, rel=1e-5)


@pytest.mark.parametrize(("box", "bins"), [("giou", False), ("iou", False), ("kl", True)])
def test_slopes_of_crosskd(box: str, bins: bool) -> None:
    student, teacher = outputs(bins)
    loss, first = CrossKDLoss(box=box, quality_weight=1.0), student.crossed

    def value(cls: Tensor, reg: Tensor, quality: Tensor) -> Tensor:
        crossed = DenseOutput(cls, reg, first.decode, quality, first.assignment)
        return torch.stack(list(terms(loss, SimpleNamespace(crossed=crossed), teacher).values())).sum()

    inputs = tuple(x.clone().requires_grad_() for x in (first.cls, first.reg, first.quality))
    # Boxes that do not meet have no slope under a clamped logarithm; elsewhere the overlap is smooth.
    assert gradcheck(value, inputs)


@pytest.mark.parametrize("bins", [False, True])
@pytest.mark.parametrize("size", [1e-6, 1e4, 1e12, 1e30])
def test_extreme_predictions_in_bf16_stay_finite(size: float, bins: bool) -> None:
    student, _ = outputs(bins)
    cls, reg = ((size * x.clamp(-1, 1)).bfloat16() for x in (student.crossed.cls, student.crossed.reg))
    theirs = DenseOutput(-cls, -reg, torch.Tensor.float)
    ours = DenseOutput(
        cls.requires_grad_(), reg.requires_grad_(), torch.Tensor.float, assignment=student.crossed.assignment
    )
    parts = terms(CrossKDLoss(), SimpleNamespace(crossed=ours), SimpleNamespace(dense=theirs))
    sum(parts.values()).backward()
    assert all(torch.isfinite(part) and part.dtype == torch.float32 for part in parts.values())
    assert torch.isfinite(cls.grad).all()
    assert torch.isfinite(reg.grad).all()


@pytest.mark.parametrize("box", ["iou", "giou"])
def test_boxes_without_end_have_a_finite_loss(box: str) -> None:
    endless = torch.tensor([[[-torch.inf, 0.0, torch.inf, 5.0]]], requires_grad=True)
    heads = [
        DenseOutput(torch.zeros(1, 1, 1), boxes, lambda reg: reg)
        for boxes in (endless, torch.tensor([[[0.0, 0.0, 4.0, 4.0]]]))
    ]
    value = CrossKDLoss(box=box).compare(*heads)["box"]
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(endless.grad).all()


def test_the_recipe_builds_its_loss() -> None:
    loss = MODELS.build(Config.fromfile(RECIPES / "crosskd.py").crosskd.losses.crosskd)
    assert (loss.split, loss.align, loss.loss_weight) == (3, True, 1.0)
