"""Which cells an object covers, and how exits on cells are measured."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from kd_mm.tasks.targets import CellTargets, assign_cells, average_precision, focal_losses, score_histogram

K, SHAPE, GRID = 3, (96, 128), (3, 4)


def assign(boxes: list[list[float]], labels: list[int], ignored: list[list[float]] | None = None) -> CellTargets:
    """Of one image of three by four cells of 32 pixels."""
    return assign_cells([rows(boxes)], [torch.tensor(labels).long()], [rows(ignored or [])], K, SHAPE, GRID)


def rows(boxes: list[list[float]]) -> Tensor:
    return torch.tensor(boxes).view(-1, 4)


def test_cells_that_a_box_covers() -> None:
    for box, expected in (
        ([40.0, 36, 50, 44], {(1, 1)}),  # small: the cell at its centre
        ([0.0, 0, 128, 96], {(1, 1), (1, 2)}),  # its central half is 32..96 by 24..72
        ([0.0, 0, 128, 20], {(0, 1), (0, 2)}),  # flat
        ([24.0, 36, 40, 44], {(1, 0), (1, 1)}),  # its centre is on the border of two cells,
    ):
        targets = assign([box], [1])
        assert {(int(y), int(x)) for y, x in targets.present[0, 1].nonzero()} == expected
        assert float(targets.present.sum()) == len(expected)
        assert targets.counted.all()


def test_moved_and_flipped_boxes_move_and_flip_targets() -> None:
    here, there = (assign([[x, 30.0, x + 50, 90]], [0]) for x in (3.0, 35.0))
    assert here.present.any()
    assert torch.equal(there.present[..., 1:], here.present[..., :-1])
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(20, 2, 2, generator=generator) * torch.tensor([128.0, 96.0])
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    flipped = torch.stack([128 - boxes[:, 2], boxes[:, 1], 128 - boxes[:, 0], boxes[:, 3]], dim=1)
    for one, other in zip(boxes, flipped, strict=True):
        there, back = (assign([each.tolist()], [2], [[60.0, 40, 68, 50]]) for each in (one, other))
        assert torch.equal(there.present.flip(-1), back.present)
        assert torch.equal(there.counted.flip(-1), back.counted)


def test_cells_of_difficult_objects_alone_do_not_count() -> None:
    targets = assign([[0.0, 0, 30, 30]], [0], [[0.0, 0, 30, 30], [100.0, 70, 120, 90]])
    assert targets.counted[0].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]]
    logits = torch.zeros(1, 1, K, *GRID)
    before = focal_losses(logits, targets)
    logits[..., 2, 3] = 50.0
    assert torch.equal(focal_losses(logits, targets), before)
    assert int(score_histogram(logits[0], targets).sum()) == K * 11


def test_images_without_objects() -> None:
    empty = assign_cells([rows([]), rows([])], [torch.tensor([]).long()] * 2, [rows([])] * 2, K, SHAPE, GRID)
    assert empty.present.shape == (2, K, *GRID)
    assert not empty.positive.any()
    # No positive cell: divided by 1. At probability 1/2 each of the decisions costs log(2) / 4.
    value = focal_losses(torch.zeros(1, 2, K, *GRID, dtype=torch.float64), empty)
    assert float(value) == pytest.approx(2 * K * 12 * math.log(2) / 4, rel=1e-12)
    assert average_precision(score_histogram(torch.zeros(2, K, *GRID), empty)) == (0.0, 0.0)


def test_focal_loss_is_divided_by_the_positive_cells() -> None:
    targets = assign([[0.0, 0, 128, 96]], [1])
    logits = torch.full((1, 1, K, *GRID), -math.log(3), dtype=torch.float64)  # probability 1/4
    positive, negative = -((3 / 4) ** 2) * math.log(1 / 4), -((1 / 4) ** 2) * math.log(3 / 4)
    expected = (2 * positive + (K * 12 - 2) * negative) / 2
    assert float(focal_losses(logits, targets)) == pytest.approx(expected, rel=1e-12)


def test_average_precision_is_that_of_scikit_learn_beside_the_classes_frequency() -> None:
    generator = torch.Generator().manual_seed(1)
    present = (torch.rand(4, K, 5, 6, generator=generator) < torch.tensor([0.3, 0.05, 0.0]).view(1, K, 1, 1)).double()
    counted = (torch.rand(4, 5, 6, generator=generator) < 0.8).double()
    logits = (torch.randn(4, K, 5, 6, generator=generator) * 128).round() / 32 + 2 * present  # apart by a bin or more
    targets = CellTargets(present, counted)
    halves = [
        score_histogram(logits[part], CellTargets(present[part], counted[part])) for part in (slice(2), slice(2, 4))
    ]
    score, chance = average_precision(halves[0] + halves[1])
    kept = counted.bool().numpy()
    truth, scores = ([each[:, k].numpy()[kept] for k in (0, 1)] for each in (present, logits))
    expected = np.mean([average_precision_score(a, b) for a, b in zip(truth, scores, strict=True)])
    assert score == pytest.approx(float(expected), rel=1e-9)
    assert chance == pytest.approx(float(np.mean([each.mean() for each in truth])), rel=1e-12)
    constant = average_precision(score_histogram(torch.zeros_like(logits), targets))
    assert constant == (pytest.approx(chance), pytest.approx(chance))
