"""Overlaps and suppression of boxes and lanes against loops in float64."""

import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms, line_nms, nms, nms_match, soft_nms
from mmcv.ops.bbox import bbox_overlaps

from ..helpers import ops_reference as reference
from ..helpers.ops_reference import random_boxes


def test_nms() -> None:
    for offset in (0, 1):
        for seed, threshold in enumerate((0.0, 0.3, 0.7)):
            boxes, scores = random_boxes(40, seed)
            expected = reference.nms(boxes.astype(float), scores, threshold, offset)
            dets, kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold, offset=offset)
            assert kept.dtype == torch.long
            assert kept.tolist() == expected
            np.testing.assert_array_equal(dets.numpy(), np.column_stack([boxes, scores])[expected])


def test_nms_offset_and_threshold_of_the_overlap() -> None:
    # The IoU is 6/14 without the offset and 12/24 with boxes one pixel wider.
    boxes, scores = torch.tensor([[0.0, 0, 5, 2], [2, 0, 7, 2]]), torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.45, offset=0)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.45, offset=1)[1].tolist() == [0]
    # The threshold is compared as float32, so that an overlap of 0.6 is not above 0.6.
    for ratio, offset in np.ndindex(9, 2):
        boxes = torch.tensor([[0.0, 0, 10 - offset, 10 - offset], [0, 0, 10 - offset, ratio + 1 - offset]])
        assert nms(boxes, torch.tensor([0.9, 0.8]), (ratio + 1) / 10, offset=offset)[1].tolist() == [0, 1]


def test_nms_score_threshold_and_max_num() -> None:
    boxes, scores = random_boxes(40, 7)
    valid = [i for i in range(40) if scores[i] > 0.4]
    expected = [valid[i] for i in reference.nms(boxes[valid].astype(float), scores[valid], 0.3)]
    got = nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.3, score_threshold=0.4, max_num=5)[1]
    assert got.tolist() == expected[:5]
    assert len(expected) > 5


def test_nms_corner_cases() -> None:
    dets, kept = nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert (dets.shape, kept.shape, kept.dtype) == ((0, 5), (0,), torch.long)
    # Boxes of no area overlap nothing; with the offset they are one pixel.
    points = torch.tensor([[3.0, 3, 3, 3], [3, 3, 3, 3]])
    assert nms(points, torch.tensor([0.5, 0.6]), 0.3, offset=0)[1].tolist() == [1, 0]
    assert nms(points, torch.tensor([0.5, 0.6]), 0.3, offset=1)[1].tolist() == [1]
    # Equal scores keep their order.
    boxes = torch.tensor([[20.0, 0, 25, 5], [0, 0, 10, 10], [0, 0, 10, 9.9], [40, 0, 45, 5]])
    assert nms(boxes, torch.full((4,), 0.5), 0.5)[1].tolist() == [0, 1, 3]


def test_nms_in_other_precisions_and_as_numpy() -> None:
    boxes, scores = random_boxes(30, 3)
    half, ranks = torch.from_numpy(boxes).bfloat16(), torch.from_numpy(scores).bfloat16()
    expected = reference.nms(half.double().numpy(), ranks.double().numpy(), 0.4)
    assert nms(half, ranks, 0.4)[1].tolist() == expected
    double = nms(torch.from_numpy(boxes).double(), torch.from_numpy(scores).double(), 0.4)[1]
    assert double.tolist() == reference.nms(boxes.astype(float), scores, 0.4)
    kept = nms(boxes, scores, 0.4)[1]
    assert isinstance(kept, np.ndarray)
    assert kept.tolist() == double.tolist()


def test_batched_nms_separates_classes() -> None:
    boxes, scores = random_boxes(30, 5)
    labels = np.arange(30) % 3
    expected = []
    for label in range(3):
        members = np.nonzero(labels == label)[0]
        expected += [members[i] for i in reference.nms(boxes[members].astype(float), scores[members], 0.3)]
    tensors = (torch.from_numpy(array) for array in (boxes, scores, labels))
    got = batched_nms(*tensors, {"type": "nms", "iou_threshold": 0.3})[1]
    assert got.tolist() == sorted(expected, key=lambda i: -scores[i])


def test_soft_nms() -> None:
    for method in ("naive", "linear", "gaussian"):
        for seed, (offset, min_score) in enumerate([(0, 1e-3), (1, 0.2), (0, 0.5), (1, 1e-3)]):
            boxes, scores = random_boxes(25, seed, size=20)
            tensors = torch.from_numpy(boxes), torch.from_numpy(scores)
            dets, order = soft_nms(*tensors, 0.3, 0.5, min_score, method, offset=offset)
            wide = boxes.astype(float), scores.astype(float)
            expected, indices = reference.soft_nms(*wide, 0.3, 0.5, min_score, method, offset)
            assert order.tolist() == indices
            np.testing.assert_allclose(dets.numpy(), expected, rtol=1e-5, atol=1e-6)
        # Swapping and refilling moves entries, so equal scores do not keep their order.
        rng = np.random.default_rng(1)
        for _ in range(10):
            boxes = random_boxes(20, int(rng.integers(1000)), size=12)[0]
            scores = rng.choice([0.25, 0.5, 0.75], 20).astype(np.float32)
            got = soft_nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.2, 0.5, 0.3, method)[1].tolist()
            assert got == reference.soft_nms(boxes.astype(float), scores.astype(float), 0.2, 0.5, 0.3, method)[1]


def test_soft_nms_corner_cases() -> None:
    dets, order = soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert (dets.shape, order.shape) == ((0, 5), (0,))
    # The first box is never compared with the least score.
    dets, order = soft_nms(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([1e-6]))
    assert order.tolist() == [0]
    assert dets.tolist() == [[0, 0, 2, 2, pytest.approx(1e-6)]]
    # Boxes of no area do not lower each other.
    dets, order = soft_nms(torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1]]), torch.tensor([0.4, 0.6]))
    assert order.tolist() == [1, 0]
    np.testing.assert_allclose(dets[:, 4].numpy(), [0.6, 0.4], rtol=1e-6)
    # The Gaussian of 0/0 is NaN: such a score loses against every number after it.
    points, scores = torch.tensor([[1.0, 1, 1, 1], [4, 4, 6, 6], [1, 1, 1, 1]]), torch.tensor([0.6, 0.1, 0.4])
    dets, order = soft_nms(points, scores, method="gaussian")
    assert order.tolist() == [0, 1, 2]
    assert order.tolist() == reference.soft_nms(points.numpy(), scores.numpy(), 0.3, 0.5, 1e-3, "gaussian")[1]
    assert torch.isnan(dets[2, 4])


def test_nms_match() -> None:
    boxes, scores = random_boxes(30, 11, size=10)
    scores[5:8] = 0.5
    dets = np.column_stack([boxes, scores]).astype(np.float32)
    for threshold in (0.2, 0.5):
        expected = reference.nms_match(boxes.astype(float), scores, threshold)
        assert any(len(group) > 1 for group in expected)
        for given in (torch.from_numpy(dets), dets):
            assert [group.tolist() for group in nms_match(given, threshold)] == expected
    assert nms_match(torch.zeros(0, 5), 0.5) == []
    # An overlap equal to the threshold matches.
    dets = torch.tensor([[0.0, 0, 10, 10, 0.9], [0, 0, 10, 6, 0.8]])
    assert [group.tolist() for group in nms_match(dets, 0.6)] == [[0, 1]]


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("offset", [0, 1])
def test_bbox_overlaps(mode: str, offset: int) -> None:
    first, second = reference.random_boxes(6, 1)[0], reference.random_boxes(6, 2)[0]

    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        if mode == "iou":
            return reference.iou(a, b, offset)
        return reference.intersection(a, b, offset) / reference.area(a, offset)

    expected = np.array([[overlap(a, b) for b in second.astype(float)] for a in first.astype(float)])
    for aligned in (False, True):
        got = bbox_overlaps(torch.from_numpy(first), torch.from_numpy(second), mode, aligned, offset).numpy()
        np.testing.assert_allclose(got, np.diag(expected) if aligned else expected, rtol=1e-4, atol=1e-6)


def lanes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Straight lanes in three directions: `(count, 77)` and scores `(count,)`."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((count, 77))
    rows[:, 2] = rng.uniform(-0.05, 0.6, count)
    rows[:, 4] = rng.uniform(-2, 80, count)
    slope = rng.choice([-3.0, 1.0, 4.0], count)[:, None]
    rows[:, 5:] = 400 + slope * np.arange(72) + rng.normal(scale=20, size=(count, 1))
    return rows, rng.permutation(count) / count


def test_line_nms() -> None:
    for top_k in (1, 4, 100):
        for seed in range(3):
            rows, scores = lanes(40, seed)
            keep, count, parent = line_nms(torch.from_numpy(rows), torch.from_numpy(scores), overlap=25.0, top_k=top_k)
            expected, parents = reference.line_nms(rows, scores, 25.0, top_k)
            assert keep[:count].tolist() == expected
            assert keep[count:].tolist() == [0] * (40 - len(expected))
            assert parent.tolist() == parents
            assert top_k < 100 or 4 < len(expected) < 40


def test_line_nms_of_no_lanes_and_of_another_shape() -> None:
    keep, count, parent = line_nms(torch.zeros(0, 77), torch.zeros(0), 50.0, 4)
    assert (keep.shape, int(count), parent.shape) == ((0,), 0, (0,))
    with pytest.raises(ValueError, match=r"rows of 77 numbers, got boxes of shape \(3, 78\)"):
        line_nms(torch.zeros(3, 78), torch.zeros(3), 50.0, 4)
