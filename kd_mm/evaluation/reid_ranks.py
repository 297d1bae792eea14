"""At which places of a ranked gallery the right images stand, without ranking the gallery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_mm.evaluation.reid_counting import count_smaller
from kd_mm.evaluation.reid_inputs import JUNK, Ids, Images


@dataclass(frozen=True)
class Ranks:
    """Places of the right images of some queries.

    Attributes:
        places: ``(M,)``: counted from 1 among the images that count, ascending within a query.
        counts: ``(V,)``: right images of each valid query, at least 1; they sum to M.
        queries: ``(V,)``: which queries these are, among those that were given.
    """

    places: Ids
    counts: Ids
    queries: Ids

    def average_precision(self) -> NDArray[np.float64]:
        """Return ``mean_k(k / r_k)`` of each valid query, ``(V,)``."""
        if not len(self.counts):
            return np.empty(0)
        starts = np.cumsum(self.counts) - self.counts
        number = np.arange(1, len(self.places) + 1) - np.repeat(starts, self.counts)
        return np.add.reduceat(number / self.places, starts) / self.counts


class GalleryRanks:
    """Finds the places of right images.

    An image is right for a query of the same person id, does not count where it shows the same person from the same
    camera, or junk, and is wrong else.

    Args:
        gallery: The gallery.
    """

    def __init__(self, gallery: Images) -> None:
        self._camids = gallery.camids
        self._junk = np.flatnonzero(gallery.pids == JUNK)
        order = np.argsort(gallery.pids, kind="stable")
        self._order = order[gallery.pids[order] != JUNK]
        self._sorted = gallery.pids[self._order]

    def find(self, distances: NDArray[Any], pids: Ids, camids: Ids | None) -> Ranks:
        """Return the places of the right images in the order of the distances; equal ones go by gallery number.

        Args:
            distances: ``(B, G)``, finite; overwritten at the images that do not count.
            pids: ``(B,)`` person ids of the queries.
            camids: ``(B,)`` their camera ids, or None.

        Raises:
            ValueError: Distances are too large for their type.
        """
        rows, columns = self._matches(pids)
        right = np.ones(len(rows), dtype=bool)
        if camids is not None and self._camids is not None:
            right = camids[rows] != self._camids[columns]
            distances[rows[~right], columns[~right]] = np.inf
        if len(self._junk):
            distances[:, self._junk] = np.inf
        rows, columns = rows[right], columns[right]
        values = distances[rows, columns]
        if not np.isfinite(values).all():
            raise ValueError("distances overflow: features are too large for their type; scale them down")
        before, tied = count_smaller(distances, rows, values)
        for i in np.flatnonzero(tied):
            before[i] += np.count_nonzero(distances[rows[i], : columns[i]] == values[i])
        counts = np.bincount(rows, minlength=len(pids))
        queries = np.flatnonzero(counts)
        counts = counts[queries]
        by_query = np.repeat(np.arange(len(counts)), counts) * len(self._order)
        return Ranks(np.sort(by_query + before) - by_query + 1, counts, queries)

    def _matches(self, pids: Ids) -> tuple[Ids, Ids]:
        """Return query and gallery numbers of all pairs of the same person id, by query, then by gallery number."""
        start = np.searchsorted(self._sorted, pids, "left")
        counts = np.searchsorted(self._sorted, pids, "right") - start
        return np.repeat(np.arange(len(pids)), counts), self._order[ranges(start, counts)]


def ranges(starts: NDArray[Any], counts: NDArray[Any]) -> Ids:
    """Return ``starts[0], starts[0] + 1, ...`` (``counts[0]`` of them), then those of ``starts[1]``, and so on."""
    shift = starts - np.append(0, np.cumsum(counts)[:-1])
    return np.repeat(shift, counts) + np.arange(counts.sum())
