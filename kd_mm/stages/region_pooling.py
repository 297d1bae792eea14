"""RoIAlign (He et al., Mask R-CNN, ICCV 2017, section 3) of plain regions: torchvision's, and on CPUs a faster one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torchvision.ops import roi_align

from kd_mm.ops.roi_utils import bin_points, neighbours

_POINTS = 2


def pool_regions(feature: Tensor, regions: Tensor, size: int, stride: float) -> Tensor:
    """Pool regions by the average of two by two bilinear samples in every bin, shifted by half a pixel (aligned).

    Args:
        feature: ``(B, C, H, W)``.
        regions: ``(R, 5)``: index in the batch, x1, y1, x2, y2 in pixels of the image; they get no gradient.
        size: Bins along each axis.
        stride: Pixels of the image for one of the map.

    Returns:
        ``(R, C, size, size)``.
    """
    if not feature.is_cpu or feature.dtype not in (torch.float32, torch.float64):
        return roi_align(feature, regions.to(feature.dtype), size, 1.0 / stride, _POINTS, True)
    # torchvision's CPU kernels go through the channels one by one, and twice through the samples; here every sample
    # adds whole rows of channels.
    channels, height, width = feature.shape[1:]
    at, weights = _samples(regions.to(feature.dtype), size, stride, height, width)
    pixels = feature.permute(0, 2, 3, 1).reshape(-1, channels)
    return _WeightedRows.apply(pixels, at, weights).view(-1, size, size, channels).permute(0, 3, 1, 2)


def _samples(regions: Tensor, size: int, stride: float, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return which pixels of the batch each bin reads and how much each counts, both ``(R * size**2, 16)``."""
    box = regions[:, 1:] / stride - 0.5
    step = (box[:, 2:] - box[:, :2]) / size
    y, y_weight = _axis(box[:, 1], step[:, 1], size, height)
    x, x_weight = _axis(box[:, 0], step[:, 0], size, width)
    row = regions[:, 0].long()[:, None, None] * height + y
    at = (row * width)[:, :, None, :, None] + x[:, None, :, None, :]
    weights = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    return at.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2)


def _axis(start: Tensor, step: Tensor, bins: int, length: int) -> tuple[Tensor, Tensor]:
    """Return index and weight of the pixels that each bin reads along one axis, both ``(R, bins, 4)``."""
    (low, below), (high, above) = neighbours(bin_points(start, step, bins, _POINTS), length)
    return torch.cat([low, high], dim=2), torch.cat([below, above], dim=2) / _POINTS


class _WeightedRows(torch.autograd.Function):
    """``out[n] = sum_k weights[n, k] * rows[at[n, k]]``, with a gradient for ``rows`` alone."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, at: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(at, weights)
        ctx.count = len(rows)
        return F.embedding_bag(at, rows, per_sample_weights=weights, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # The same sum the other way: whoever read a row, row after row.
        at, weights = ctx.saved_tensors
        order = at.flatten().argsort()
        times = torch.bincount(at.flatten(), minlength=ctx.count)
        readers = order // at.shape[1]
        sums = F.embedding_bag(
            readers,
            gradient.contiguous(),
            times.cumsum(0) - times,
            per_sample_weights=weights.flatten()[order],
            mode="sum",
        )
        return sums, None, None
