"""Overlap of boxes, pairwise or row by row."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_mm.ops._dtype import like_compiled_op, to_at_least_float32


@like_compiled_op
def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Intersection over union, or over the first box's own area (`mmcv.ops.bbox_overlaps`).

    Args:
        bboxes1: `(N, 4)` corners x1, y1, x2, y2 in pixels.
        bboxes2: `(M, 4)`; `(N, 4)` where `aligned`.
        ious: Result buffer, `(N, M)`; `(N,)` where `aligned`.
        mode: 0 for the union as denominator, 1 for the area of the first box.
        aligned: Compare row by row instead of all pairs.
        offset: 0 or 1: a box is `x2 - x1 + offset` wide.
    """
    first, second = to_at_least_float32(bboxes1), to_at_least_float32(bboxes2)
    if not aligned:
        first, second = first[:, None], second[None]
    near = torch.maximum(first[..., :2], second[..., :2])
    far = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (far - near + offset).clamp(min=0).prod(dim=-1)
    base = (first[..., 2:] - first[..., :2] + offset).prod(dim=-1)
    if mode == 0:
        base = base + (second[..., 2:] - second[..., :2] + offset).prod(dim=-1) - intersection
    if base.is_cuda:
        # Only the CUDA kernel bounds the denominator from below.
        base = base.clamp(min=offset)
    ious.copy_(intersection / base)
