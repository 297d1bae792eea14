"""Sampling points and groups of regions that the RoI pooling operators share."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_ELEMENTS_AT_ONCE = 1 << 24

Neighbours = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def inside(coordinates: Tensor, size: int) -> Tensor:
    """Which points weigh something along an axis of `size` pixels: those at most one pixel outside.

    Args:
        coordinates: Any shape, in pixels.
        size: Pixels along the axis.

    Returns:
        Bool of the shape of `coordinates`.
    """
    return (coordinates >= -1) & (coordinates <= size)


def neighbours(coordinates: Tensor, size: int) -> Neighbours:
    """The two pixels around each point and their weights.

    Points up to one pixel outside take the border's value, points farther away weigh nothing.

    Args:
        coordinates: Any shape, in pixels.
        size: Pixels along the axis.

    Returns:
        `(lower index, lower weight)` and `(upper index, upper weight)`, each of the shape of `coordinates`; indices
        are int64.
    """
    within = inside(coordinates, size)
    bounded = torch.where(within, coordinates, 0.0).clamp(min=0, max=size - 1)
    low = bounded.floor()
    upper_weight = (bounded - low) * within
    lower_weight = within.to(bounded.dtype) - upper_weight
    index = low.long()
    return (index, lower_weight), ((index + 1).clamp(max=size - 1), upper_weight)


def bin_points(start: Tensor, step: Tensor, bins: int, points: int) -> Tensor:
    """Coordinates of evenly spread points in each bin of each region.

    Args:
        start: `(k,)` first edge of the first bin in pixels.
        step: `(k,)` size of a bin in pixels.
        bins: Bins along the axis.
        points: Points in a bin along the axis.

    Returns:
        `(k, bins, points)`.
    """
    corner = start[:, None] + torch.arange(bins, device=start.device) * step[:, None]
    within = (torch.arange(points, device=start.device) + 0.5) * step[:, None] / points
    return corner[:, :, None] + within[:, None, :]


def same_grid(rows: Tensor, columns: Tensor, bins: int) -> Iterator[tuple[Tensor, int, int]]:
    """Split regions into groups whose bins hold the same number of points, small enough for the memory.

    Args:
        rows: `(K,)` integers: points of one bin along y.
        columns: `(K,)` integers: points of one bin along x.
        bins: Values that one region reads for each point of a bin: bins of a region times channels.

    Yields:
        Indices of regions `(k,)` int64, points along y, points along x.
    """
    grids, member = torch.unique(torch.stack([rows, columns], dim=1), dim=0, return_inverse=True)
    for group, (height, width) in enumerate(grids.tolist()):
        index = torch.nonzero(member == group).flatten()
        size = max(1, _ELEMENTS_AT_ONCE // max(1, bins * height * width))
        for part in torch.split(index, size):
            yield part, int(height), int(width)
