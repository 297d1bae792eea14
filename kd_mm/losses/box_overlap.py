"""Overlap of paired boxes, as pure functions."""

import torch
from torch import Tensor

_EPS = 1e-6
# Pixels; keeps areas finite in float32 where a box regression diverges.
_FARTHEST = 1e8


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union of the boxes of each row, in [0, 1].

    Args:
        first: ``(..., 4)``, x1, y1, x2, y2.
        second: Likewise.
    """
    return _overlap(first, second)[0]


def paired_giou(first: Tensor, second: Tensor) -> Tensor:
    """Return the generalised IoU of the boxes of each row, in [-1, 1] (Rezatofighi et al. 2019, arXiv 1902.09630).

    ``IoU - (hull - union) / hull`` with the smallest box that encloses both; union and hull are at least 1e-6.

    Args:
        first: ``(..., 4)``, x1, y1, x2, y2.
        second: Likewise.
    """
    iou, union = _overlap(first, second)
    first, second = _bounded(first), _bounded(second)
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    hull = (high - low).clamp(min=0).prod(dim=-1).clamp(min=_EPS)
    return iou - (hull - union) / hull


def _overlap(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    first, second = _bounded(first), _bounded(second)
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    common = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(dim=-1) for box in (first, second)]
    union = (areas[0] + areas[1] - common).clamp(min=_EPS)
    return common / union, union


def _bounded(boxes: Tensor) -> Tensor:
    return boxes.clamp(-_FARTHEST, _FARTHEST)
