"""Adaptive average pooling whose gradient is deterministic where a run asks for that."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def adaptive_average(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Return ``F.adaptive_avg_pool2d`` of a map ``(B, C, H, W)``: ``(B, C, *size)``.

    Under ``torch.use_deterministic_algorithms`` (``randomness=dict(deterministic=True)``) torch has no gradient of it
    on GPUs and raises; there it is computed as two matrix products.
    """
    if feature.is_cuda and feature.requires_grad and torch.are_deterministic_algorithms_enabled():
        return average_by_products(feature, size)
    return F.adaptive_avg_pool2d(feature, (size[0], size[1]))


def average_by_products(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Return the same as :func:`adaptive_average`: ``A_h F A_w^T``, each row of a matrix the mean over one window."""
    height, width = (_windows(length, count).to(feature) for length, count in zip(feature.shape[2:], size, strict=True))
    return height @ feature @ width.T


def _windows(length: int, count: int) -> Tensor:
    """Return ``(count, length)``: row i is a mean over places ``floor(i L / n)`` to ``ceil((i + 1) L / n)``."""
    number, place = torch.arange(count)[:, None], torch.arange(length)
    inside = (place >= number * length // count) & (place < -(-(number + 1) * length // count))
    return inside.double() / inside.sum(dim=1, keepdim=True)
