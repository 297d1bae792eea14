"""Regions of equal sampling grids, taken together so that pooling needs no loop over regions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_ELEMENTS_AT_ONCE = 1 << 24


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
