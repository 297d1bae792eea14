"""Non-maximum suppression: hard, soft and matching.

Boxes are `(N, 4)` corners x1, y1, x2, y2 in pixels. With `offset` 1 a box is `x2 - x1 + 1` wide, the convention
of integer pixel boxes; with 0 it is `x2 - x1`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_mm.ops._dtype import like_compiled_op, to_at_least_float32

_NAIVE, _LINEAR, _GAUSSIAN = 0, 1, 2


def _threshold(value: float, dtype: torch.dtype) -> float:
    """Round a threshold as the compiled operators do, which take it as a 32-bit float.

    0.6 is larger in float32 than in float64; without the rounding, boxes that overlap by exactly 0.6 would fall.
    """
    return value if dtype == torch.float64 else float(np.float32(value))


def _areas(boxes: NDArray[Any], offset: int) -> NDArray[Any]:
    return (boxes[:, 2] - boxes[:, 0] + offset) * (boxes[:, 3] - boxes[:, 1] + offset)


def _overlap(box: NDArray[Any], area: Any, boxes: NDArray[Any], areas: NDArray[Any], offset: int) -> NDArray[Any]:
    """Intersection over union of one box `(4,)` with boxes `(N, 4)`: `(N,)`, NaN where both are empty."""
    width = np.minimum(box[2], boxes[:, 2]) - np.maximum(box[0], boxes[:, 0]) + offset
    height = np.minimum(box[3], boxes[:, 3]) - np.maximum(box[1], boxes[:, 1]) + offset
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return intersection / (area + areas - intersection)


@like_compiled_op
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Keep the best box of every overlapping group (`mmcv.ops.nms`).

    Args:
        boxes: `(N, 4)` corners in pixels.
        scores: `(N,)`.
        iou_threshold: A box that overlaps a better one by more than this falls.
        offset: 0 or 1, see the module's docstring.

    Returns:
        `(K,)` int64 indices of the kept boxes, best score first; equal scores keep their order.
    """
    if boxes.numel() == 0:
        return torch.empty(0, dtype=torch.long, device=boxes.device)
    corners = to_at_least_float32(boxes)
    if offset:
        # Moving the far corners by one pixel gives torchvision's boxes the width of this convention.
        corners = torch.cat([corners[:, :2], corners[:, 2:] + offset], dim=1)
    ranks = to_at_least_float32(scores).to(corners.dtype)
    kept: Tensor = torch.ops.torchvision.nms(corners, ranks, _threshold(iou_threshold, corners.dtype))
    return kept


def _best(scores: NDArray[Any]) -> int:
    """Position of the first highest score, where a NaN neither wins over a number nor loses the first position."""
    if math.isnan(scores[0]):
        return 0
    return int(np.nanargmax(scores))


def _decay(overlap: NDArray[Any], threshold: float, sigma: float, method: int) -> NDArray[Any]:
    """Factor for the scores of boxes that overlap the chosen one (Bodla et al., Soft-NMS, ICCV 2017, eq. 3, 5)."""
    if method == _GAUSSIAN:
        return np.exp(-(overlap * overlap) / sigma)
    factor = np.ones_like(overlap)
    hit = overlap >= threshold
    factor[hit] = 0 if method == _NAIVE else 1 - overlap[hit]
    return factor


def _refill(keep: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Order of the survivors when every fallen entry is replaced by the last one standing, front to back.

    The order decides which of two equal scores is chosen next, so it is part of the result.
    """
    count = int(keep.sum())
    order = np.arange(count)
    order[~keep[:count]] = (np.nonzero(keep[count:])[0] + count)[::-1]
    return order


@like_compiled_op
def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of overlapping boxes instead of dropping them (`mmcv.ops.soft_nms`).

    Args:
        boxes: `(N, 4)` corners in pixels.
        scores: `(N,)`.
        dets: `(N, 5)` buffer on the CPU; its first K rows become box and lowered score.
        iou_threshold: Overlap from which the naive and the linear method act.
        sigma: Width of the Gaussian method.
        min_score: A box whose lowered score is below this falls.
        method: 0 naive (score to zero), 1 linear, 2 Gaussian.
        offset: 0 or 1, see the module's docstring.

    Returns:
        `(K,)` int64 indices, in the order of choice.
    """
    if boxes.numel() == 0:
        return torch.empty(0, dtype=torch.long, device=boxes.device)
    corners = to_at_least_float32(boxes).cpu().numpy()
    kind = corners.dtype.type
    left = to_at_least_float32(scores).cpu().numpy().astype(kind)
    rows = np.concatenate([corners, _areas(corners, offset)[:, None]], axis=1)
    index: NDArray[np.int64] = np.arange(len(rows))
    threshold, width = kind(iou_threshold), kind(sigma)
    chosen: list[int] = []
    found: list[Any] = []
    while len(index):
        best = _best(left)
        box, area = rows[best, :4].copy(), rows[best, 4]
        chosen.append(int(index[best]))
        found.append([*box, left[best]])
        # The head of the list moves to the position of the chosen entry.
        for entries in (rows, left, index):
            entries[best] = entries[0]
        rows, left, index = rows[1:], left[1:], index[1:]
        left = left * _decay(_overlap(box, area, rows[:, :4], rows[:, 4], offset), threshold, width, method)
        order = _refill(~(left < kind(min_score)))
        rows, left, index = rows[order], left[order], index[order]
    dets[: len(found)] = torch.as_tensor(np.asarray(found, dtype=kind)).to(dets)
    return torch.tensor(chosen, dtype=torch.long, device=boxes.device)


@like_compiled_op
def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group boxes by the one that suppresses them (`mmcv.ops.nms_match`).

    Args:
        dets: `(N, 5)`: corners in pixels and score.
        iou_threshold: A box that overlaps a better one by at least this joins its group.

    Returns:
        One list of indices for each kept box: itself, then its suppressed ones, by falling score.
    """
    values = to_at_least_float32(dets.detach()).cpu()
    waiting = torch.sort(values[:, 4], descending=True, stable=True).indices.numpy()
    boxes = values[:, :4].numpy()
    areas = _areas(boxes, 0)
    threshold = _threshold(iou_threshold, values.dtype)
    groups: list[list[int]] = []
    while len(waiting):
        first, rest = waiting[0], waiting[1:]
        joins = _overlap(boxes[first], areas[first], boxes[rest], areas[rest], 0) >= threshold
        groups.append([int(first), *rest[joins].tolist()])
        waiting = rest[~joins]
    return groups
