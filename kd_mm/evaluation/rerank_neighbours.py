"""Nearest neighbours, and the sets of those that have each other among theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_mm.evaluation.reid_inputs import Ids
from kd_mm.evaluation.reid_ranks import ranges

_GROUP = 64
#: Images whose neighbours are looked for at once.
_FEW_ROWS = 256
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


class Nearest:
    """The nearest of all images to each, found as distances come in.

    Args:
        rows: Images that neighbours are looked for.
        count: Neighbours of each.

    Attributes:
        indices: ``(rows, count)``: numbers of the nearest so far, nearest first; equal ones by number.
        values: ``(rows, count)``: their distances; infinite where there were not so many.
        largest: ``(rows,)``: the largest distance so far.
    """

    def __init__(self, rows: int, count: int) -> None:
        self.indices = np.zeros((rows, count), dtype=np.int64)
        self.values = np.full((rows, count), np.inf)
        self.largest = np.zeros(rows)

    def add(self, start: int, first: int, distances: NDArray[Any]) -> None:
        """Take in distances ``(n, m)`` from the images start, start + 1, ... to the images first, first + 1, ...

        Args:
            start: Number of the image of the first row.
            first: Number of the image of the first column, larger than that of any that these rows had before.
            distances: Without NaN.
        """
        for group in range(0, len(distances), _FEW_ROWS):
            part = distances[group : group + _FEW_ROWS]
            self._add(slice(start + group, start + group + len(part)), first, part)

    def _add(self, rows: slice, first: int, distances: NDArray[Any]) -> None:
        count = self.indices.shape[1]
        np.maximum(self.largest[rows], distances.max(axis=1), out=self.largest[rows])
        limits = self.values[rows, -1].astype(distances.dtype)
        if distances.shape[1] > count:
            limits = np.minimum(limits, np.partition(distances, count - 1, axis=1)[:, count - 1])
        near = np.flatnonzero(distances <= limits[:, None])
        row, column = np.divmod(near, distances.shape[1])
        sizes = np.bincount(row, minlength=len(distances))
        slot = count + np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        width = count + sizes.max()
        values = np.full((len(distances), width), np.inf)
        indices = np.zeros(values.shape, dtype=np.int64)
        values[:, :count], indices[:, :count] = self.values[rows], self.indices[rows]
        values[row, slot], indices[row, slot] = distances.ravel()[near], column + first
        order = np.argsort(values, axis=1, kind="stable")[:, :count]
        self.values[rows] = np.take_along_axis(values, order, axis=1)
        self.indices[rows] = np.take_along_axis(indices, order, axis=1)


def with_copies(indices: Ids, values: NDArray[Any], first: Ids, count: int) -> tuple[Ids, NDArray[Any]]:
    """Return the nearest images ``(N, count)`` and their distances, where some are the same, from those that differ.

    Args:
        indices: ``(U, k)``: the nearest of the different images, counted among these; all of them, or ``count``.
        values: ``(U, k)``: their distances.
        first: ``(N,)``: for each image the number of the first one that is the same.
        count: At most N.
    """
    different, group, sizes = np.unique(first, return_inverse=True, return_counts=True)
    members = np.argsort(first, kind="stable")
    starts = np.cumsum(sizes) - sizes
    near = indices.ravel()
    images = members[ranges(starts[near], sizes[near])]
    distances = np.repeat(values.ravel(), sizes[near])
    rows = np.repeat(np.repeat(np.arange(len(different)), indices.shape[1]), sizes[near])
    order = np.lexsort((images, distances, rows))
    ends = np.cumsum(np.bincount(rows))
    kept = order[ranges(np.append(0, ends[:-1]), np.full(len(different), count))].reshape(-1, count)
    return images[kept][group], distances[kept][group]


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
