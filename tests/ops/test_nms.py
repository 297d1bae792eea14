"""Suppression stand-ins against loops in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms, nms, nms_match, soft_nms
from mmcv.ops.bbox import bbox_overlaps

from tests.ops import reference


def random_boxes(count: int, seed: int, size: float = 30.0) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of which every third lies close to another, so that all degrees of overlap occur."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, size, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, size / 2, (count, 2))], axis=1)
    boxes[2::3] = boxes[: len(boxes[2::3])] + rng.normal(scale=size / 60, size=boxes[2::3].shape)
    return boxes.astype(np.float32), rng.uniform(0.05, 1, count).astype(np.float32)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_nms(offset: int, threshold: float, seed: int) -> None:
    boxes, scores = random_boxes(40, seed)
    expected = reference.nms(boxes.astype(float), scores, threshold, offset)
    dets, kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold, offset=offset)
    assert kept.dtype == torch.long
    assert kept.tolist() == expected
    np.testing.assert_array_equal(dets.numpy(), np.column_stack([boxes, scores])[expected])


def test_nms_offset_changes_the_result() -> None:
    # One pixel more in width: the IoU is 12/24 in the convention of pixels and 6/14 without.
    boxes = torch.tensor([[0.0, 0, 5, 2], [2, 0, 7, 2]])
    scores = torch.tensor([0.9, 0.8])
    assert reference.iou(boxes[0], boxes[1], 0) == pytest.approx(6 / 14)
    assert reference.iou(boxes[0], boxes[1], 1) == pytest.approx(12 / 24)
    assert nms(boxes, scores, 0.45, offset=0)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.45, offset=1)[1].tolist() == [0]


@pytest.mark.parametrize("ratio", range(1, 10))
@pytest.mark.parametrize("offset", [0, 1])
def test_nms_keeps_a_box_exactly_at_the_threshold(ratio: int, offset: int) -> None:
    # The threshold is a float32 there, so that an overlap of 0.6 is not more than 0.6.
    boxes = torch.tensor([[0.0, 0, 10 - offset, 10 - offset], [0, 0, 10 - offset, ratio - offset]])
    kept = nms(boxes, torch.tensor([0.9, 0.8]), ratio / 10, offset=offset)[1]
    assert kept.tolist() == [0, 1]


def test_nms_score_threshold_and_max_num() -> None:
    boxes, scores = random_boxes(40, 7)
    valid = [i for i in range(40) if scores[i] > 0.4]
    expected = [valid[i] for i in reference.nms(boxes[valid].astype(float), scores[valid], 0.3)]
    got = nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.3, score_threshold=0.4, max_num=5)[1]
    assert got.tolist() == expected[:5]
    assert len(expected) > 5


def test_nms_keeps_the_order_of_equal_scores() -> None:
    boxes = torch.tensor([[20.0, 0, 25, 5], [0, 0, 10, 10], [0, 0, 10, 9.9], [40, 0, 45, 5]])
    assert nms(boxes, torch.full((4,), 0.5), 0.5)[1].tolist() == [0, 1, 3]


def test_nms_corner_cases() -> None:
    empty = nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert empty[0].shape == (0, 5)
    assert empty[1].shape == (0,)
    assert empty[1].dtype == torch.long
    assert nms(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([0.1]), 0.5)[1].tolist() == [0]
    # Boxes of no area overlap nothing, not even themselves; with the offset they are one pixel.
    points = torch.tensor([[3.0, 3, 3, 3], [3, 3, 3, 3]])
    assert nms(points, torch.tensor([0.5, 0.6]), 0.3, offset=0)[1].tolist() == [1, 0]
    assert nms(points, torch.tensor([0.5, 0.6]), 0.3, offset=1)[1].tolist() == [1]


def test_nms_in_other_precisions_and_as_numpy() -> None:
    boxes, scores = random_boxes(30, 3)
    half = torch.from_numpy(boxes).bfloat16()
    ranks = torch.from_numpy(scores).bfloat16()
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
    expected = [
        classes[i]
        for label in range(3)
        for classes in [np.nonzero(labels == label)[0]]
        for i in reference.nms(boxes[classes].astype(float), scores[classes], 0.3)
    ]
    got = batched_nms(
        torch.from_numpy(boxes),
        torch.from_numpy(scores),
        torch.from_numpy(labels),
        {"type": "nms", "iou_threshold": 0.3},
    )[1]
    assert got.tolist() == sorted(expected, key=lambda i: -scores[i])


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("min_score", [1e-3, 0.2, 0.5])
def test_soft_nms(method: str, offset: int, min_score: float) -> None:
    for seed in range(3):
        boxes, scores = random_boxes(25, seed, size=20)
        dets, order = soft_nms(
            torch.from_numpy(boxes), torch.from_numpy(scores), 0.3, 0.5, min_score, method, offset=offset
        )
        wanted, indices = reference.soft_nms(
            boxes.astype(float), scores.astype(float), 0.3, 0.5, min_score, method, offset
        )
        assert order.tolist() == indices
        np.testing.assert_allclose(dets.numpy(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_chooses_among_equal_scores_as_upstream(method: str) -> None:
    # Swapping and refilling moves entries, so equal scores do not come out in their first order.
    rng = np.random.default_rng(1)
    for _ in range(10):
        boxes = random_boxes(20, int(rng.integers(1000)), size=12)[0]
        scores = rng.choice([0.25, 0.5, 0.75], 20).astype(np.float32)
        got = soft_nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.2, 0.5, 0.3, method)[1].tolist()
        assert got == reference.soft_nms(boxes.astype(float), scores.astype(float), 0.2, 0.5, 0.3, method)[1]


def test_soft_nms_corner_cases() -> None:
    dets, order = soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5)
    assert order.shape == (0,)
    # The first box is never compared with the least score.
    dets, order = soft_nms(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([1e-6]))
    assert order.tolist() == [0]
    assert dets.tolist() == [[0, 0, 2, 2, pytest.approx(1e-6)]]
    # Boxes of no area do not lower each other.
    dets, order = soft_nms(torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1]]), torch.tensor([0.4, 0.6]))
    assert order.tolist() == [1, 0]
    np.testing.assert_allclose(dets[:, 4].numpy(), [0.6, 0.4], rtol=1e-6)
    # The Gaussian of no area over no area is no number: such a score loses against every number after it.
    points = torch.tensor([[1.0, 1, 1, 1], [4, 4, 6, 6], [1, 1, 1, 1]])
    scores = torch.tensor([0.6, 0.1, 0.4])
    dets, order = soft_nms(points, scores, method="gaussian")
    assert order.tolist() == [0, 1, 2]
    assert order.tolist() == reference.soft_nms(points.numpy(), scores.numpy(), 0.3, 0.5, 1e-3, "gaussian")[1]
    assert torch.isnan(dets[2, 4])


@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_nms_match(threshold: float) -> None:
    boxes, scores = random_boxes(30, 11, size=10)
    scores[5:8] = 0.5
    dets = np.column_stack([boxes, scores]).astype(np.float32)
    expected = reference.nms_match(boxes.astype(float), scores, threshold)
    groups = nms_match(torch.from_numpy(dets), threshold)
    assert [group.tolist() for group in groups] == expected
    assert any(len(group) > 1 for group in expected)
    assert [group.tolist() for group in nms_match(dets, threshold)] == expected
    assert nms_match(torch.zeros(0, 5), threshold) == []


def test_nms_match_takes_the_threshold_itself() -> None:
    dets = torch.tensor([[0.0, 0, 10, 10, 0.9], [0, 0, 10, 6, 0.8]])
    assert [group.tolist() for group in nms_match(dets, 0.6)] == [[0, 1]]


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("aligned", [False, True])
def test_bbox_overlaps(mode: str, offset: int, aligned: bool) -> None:
    first, second = random_boxes(6, 1)[0], random_boxes(6, 2)[0]
    got = bbox_overlaps(torch.from_numpy(first), torch.from_numpy(second), mode, aligned, offset).numpy()
    expected = np.array(
        [
            [
                reference.iou(a, b, offset)
                if mode == "iou"
                else reference.intersection(a, b, offset) / reference.area(a, offset)
                for b in second.astype(float)
            ]
            for a in first.astype(float)
        ]
    )
    np.testing.assert_allclose(got, np.diag(expected) if aligned else expected, rtol=1e-4, atol=1e-6)
