"""Nearest neighbours, and the sets of those that have each other among theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_mm.evaluation.reid_inputs import Ids
from kd_mm.evaluation.reid_ranks import ranges

_GROUP = 64
#: Images whose neighbours' sets are compared at once.
_ROWS = 2048


def smallest(values: NDArray[Any], count: int) -> tuple[Ids, NDArray[Any]]:
    """Return places and values ``(B, count)`` of the smallest values of each row, ascending; equal ones by place.

    Args:
        values: ``(B, N)`` without NaN.
        count: At most N.
    """
    rows, columns = values.shape
    indices = np.empty((rows, count), dtype=np.int64)
    found = np.empty((rows, count), dtype=values.dtype)
    groups = columns // _GROUP
    if groups > count:
        # Each of the smallest group minima stands for one value that is no larger, so none of the wanted ones is.
        minima = values[:, : groups * _GROUP].reshape(rows, _GROUP, groups).min(axis=1)
        limits = np.partition(minima, count - 1, axis=1)[:, count - 1]
    else:
        limits = np.full(rows, np.inf, dtype=values.dtype)
    for i, (row, limit) in enumerate(zip(values, limits, strict=True)):
        near = np.flatnonzero(row <= limit)
        near = near[np.argsort(row[near], kind="stable")[:count]]
        indices[i], found[i] = near, row[near]
    return indices, found


def reciprocal(neighbours: Ids) -> tuple[Ids, Ids]:
    """Return the sets ``R(i, k)`` of images that are among each other's neighbours.

    Args:
        neighbours: ``(N, k + 1)``: the nearest images of each.

    Returns:
        ``i * N + j`` of every j in the set of i, ascending, and the size ``(N,)`` of each set.
    """
    rows = len(neighbours)
    own = np.arange(rows)[:, None]
    forward = np.sort((own * rows + neighbours).ravel())
    keys = forward[_among((forward % rows) * rows + forward // rows, forward)]
    return keys, np.bincount(keys // rows, minlength=rows)


def expanded_sets(neighbours: Ids, half: Ids) -> Ids:
    """Return the expanded sets ``R*(i)`` of :class:`kd_mm.evaluation.ReRanking`.

    Args:
        neighbours: ``(N, k1 + 1)``: the nearest images of each.
        half: ``(N, k1 / 2 + 1)``: the nearest of these.

    Returns:
        ``i * N + j`` of every j in the set of i, ascending.
    """
    rows = len(neighbours)
    keys, sizes = reciprocal(neighbours)
    half_keys, half_sizes = reciprocal(half)
    half_starts, members = np.cumsum(half_sizes) - half_sizes, half_keys % rows
    ends = np.cumsum(sizes)
    parts = []
    for start in range(0, rows, _ROWS):
        last = min(start + _ROWS, rows) - 1
        mine = keys[ends[start] - sizes[start] : ends[last]]
        i, j = mine // rows, mine % rows
        counts = half_sizes[j]
        pair = np.repeat(np.arange(len(mine)), counts)
        candidates = i[pair] * rows + members[ranges(half_starts[j], counts)]
        shared = np.bincount(pair[_among(candidates, mine)], minlength=len(mine))
        taken = 3 * shared > 2 * counts
        parts.append(np.unique(np.concatenate([mine, candidates[taken[pair]]])))
    return np.concatenate(parts)


def _among(values: Ids, ordered: Ids) -> NDArray[np.bool_]:
    """Return which values stand in an ascending list."""
    if not len(ordered):
        return np.zeros(len(values), dtype=bool)
    at = np.searchsorted(ordered, values)
    return ordered[np.minimum(at, len(ordered) - 1)] == values
