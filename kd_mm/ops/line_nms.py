"""Non-maximum suppression of lanes (Zheng et al., CLRNet, CVPR 2022).

A lane is a row of 77 numbers: two scores, the start as a share of the height counted from the bottom, a value
that the comparison does not read, the length in points, then x in pixels at each of 72 heights from the bottom to the
top.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kd_mm.ops._dtype import like_compiled_op, to_at_least_float32

_HEADER, _POINTS = 5, 72


def _near(lane: Tensor, others: Tensor, threshold: float) -> Tensor:
    """Which of `(N, 77)` lanes lie on average less than `threshold` pixels from `(77,)` where both exist: `(N,)`."""
    begin = torch.maximum(_start(lane), _start(others))
    end = torch.minimum(_start(lane) + lane[4].long(), _start(others) + others[:, 4].long()).clamp(max=_POINTS)
    point = torch.arange(_POINTS, device=lane.device)
    common = (point >= begin[:, None]) & (point < end[:, None])
    distance = ((lane[_HEADER:] - others[:, _HEADER:]).abs() * common).sum(dim=1)
    return (begin >= 0) & (end > begin) & (distance < threshold * (end - begin))


def _start(lanes: Tensor) -> Tensor:
    """First point of each lane, int64; the compiled operator drops the fraction of negative numbers too."""
    return (lanes[..., 2] * (_POINTS - 1) + 0.5).long()


@like_compiled_op
def line_nms_forward(boxes: Tensor, scores: Tensor, thresh: float, top_k: int) -> list[Tensor]:
    """Keep the best lane of every group of near ones (`mmcv.ops.line_nms`).

    mmcv 2.3's CUDA kernel takes the lane of each rank from `boxes` as stored instead of by score, so its result is
    this one where the rows come best first, and depends on their order elsewhere.

    Args:
        boxes: `(N, 77)`, see the module's docstring.
        scores: `(N,)`.
        thresh: Mean distance in pixels below which two lanes are the same.
        top_k: Lanes to keep at most.

    Returns:
        `(N,)` int64 indices of the kept lanes, best first, then zeros; how many were kept, `()` int64; `(N,)` int64
        rank from 1 of the last kept lane that each one is near to, 0 for one that was not reached.

    Raises:
        ValueError: A row does not have 77 numbers.
    """
    if boxes.shape[1:] != (_HEADER + _POINTS,):
        raise ValueError(f"line_nms takes rows of {_HEADER + _POINTS} numbers, got boxes of shape {tuple(boxes.shape)}")
    order = torch.sort(to_at_least_float32(scores), descending=True, stable=True).indices
    lanes = to_at_least_float32(boxes)[order]
    keep, parents = torch.zeros_like(order), torch.zeros_like(order)
    waiting = torch.ones_like(order, dtype=torch.bool)
    kept = 0
    for rank in range(len(order)):
        if kept == top_k:
            break
        if not waiting[rank]:
            continue
        near = _near(lanes[rank], lanes[rank + 1 :], thresh)
        waiting[rank + 1 :] &= ~near
        keep[kept] = order[rank]
        kept += 1
        parents[order[rank]] = kept
        parents[order[rank + 1 :][near]] = kept
    return [keep, torch.tensor(kept, device=boxes.device), parents]
