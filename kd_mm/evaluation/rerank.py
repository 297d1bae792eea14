"""k-reciprocal re-ranking, exact, with sparse sets instead of dense matrices."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array
from torch import Tensor

from kd_mm.evaluation.reid_distances import Distances
from kd_mm.evaluation.reid_inputs import Ids
from kd_mm.evaluation.reid_ranks import ranges
from kd_mm.evaluation.rerank_neighbours import Nearest, expanded_sets, with_copies

DEFAULTS = {"k1": 20, "k2": 6, "lambda_value": 0.3}


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``k1``, ``k2`` and ``lambda_value``, with defaults for what is not given.

    Raises:
        ValueError: An unknown name, or a value out of range.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f"rerank={options!r}: give None, or a dict such as {DEFAULTS}")
    for name in options:
        if name not in DEFAULTS:
            near = difflib.get_close_matches(str(name), list(DEFAULTS), 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(DEFAULTS)}"
            raise ValueError(f"rerank has no option {name!r}: {hint}")
    given = {**DEFAULTS, **options}
    for name in ("k1", "k2"):
        if isinstance(given[name], bool) or not isinstance(given[name], int | np.integer) or given[name] < 1:
            raise ValueError(f"rerank: {name}={given[name]}: give a number of neighbours, at least 1")
    if not 0 <= given["lambda_value"] <= 1:
        raise ValueError(f"rerank: lambda_value={given['lambda_value']}: give the share of the distance, from 0 to 1")
    return given


class ReRanking:
    """Distances re-ranked by how much of their nearest neighbours two images share (Zhong et al., CVPR 2017).

    Over queries and gallery together, with ``d`` the squared Euclidean distance (of L2-normalised features for cosine),
    every row divided by its maximum, and ``N(i, k)`` the ``k + 1`` images nearest to i, itself among them:

    * ``R(i, k)``: the images of ``N(i, k)`` that have i among their own ``k + 1``;
    * ``R*(i)``: ``R(i, k1)``, and ``R(j, k1 / 2)`` of each j in it of which more than two thirds lie in ``R(i, k1)``;
    * ``V(i, j) = exp(-d(i, j))`` for j in ``R*(i)``, else 0; each row divided by its sum;
    * ``V(i)``, averaged over the ``k2`` images nearest to i: local query expansion;
    * Jaccard distance ``1 - m / (2 - m)`` with ``m = sum_j min(V(i, j), V(g, j))``, as rows of V sum to one;
    * ``(1 - lambda_value) * Jaccard + lambda_value * d``.

    Agrees with the authors' dense program up to rounding, also where it says more than the paper: "more than" two
    thirds, rows of d and V divided, ``k1 / 2`` rounded, halves to the even number, and no expansion for ``k2 = 1``. Of
    equal distances that to the image of the smaller number comes first, queries before the gallery. Kept are the
    nearest neighbours and the sparse V, not one ``N x N`` matrix.

    Args:
        query: Features ``(Q, D)``, finite, float32 or float64.
        gallery: Features ``(G, D)``, the same dtype and device; without junk, which would be neighbours.
        metric: ``"cosine"`` or ``"euclidean"``.
        k1: Neighbours whose sets are compared.
        k2: Neighbours to average over.
        lambda_value: Share of the original distance, in [0, 1].
        chunk_size: Rows of distances that are held at once; default: 64 MiB of them, at least 64.
    """

    def __init__(
        self,
        query: Tensor,
        gallery: Tensor,
        metric: str = "cosine",
        k1: int = 20,
        k2: int = 6,
        lambda_value: float = 0.3,
        chunk_size: int | None = None,
    ) -> None:
        self.lambda_value = lambda_value
        images = torch.cat([query, gallery])
        self._chunk_size = chunk_size
        self._distances = Distances(images, images, metric, chunk_size)
        self._queries = len(query)
        # Twice the neighbours: most of what the sets are expanded by is among them, so its distances are known.
        indices, values, self._largest = self._neighbours(max(2 * (k1 + 1), k2))
        weights = self._weights(indices, values, k1)
        if k2 > 1:
            weights = _averaged(weights, indices[:, :k2])
        self._weights_of_queries = weights[: self._queries]
        self._weights_of_gallery = csc_array(weights[self._queries :])

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the number of the first query and re-ranked distances ``(n, G)`` of n queries, until all were there."""
        for start, block in self._distances.blocks(self._queries):
            mixed = block[:, self._queries :]
            for i, distances in enumerate(mixed, start):
                distances *= self.lambda_value / self._largest[i]
                distances += (1 - self.lambda_value) * self._jaccard(i)
            yield start, mixed

    def _neighbours(self, count: int) -> tuple[Ids, NDArray[Any], NDArray[Any]]:
        """Return the nearest images ``(N, count)`` of each, their distances, and the largest distance ``(N,)``."""
        distances, first = self._distances, self._distances.first
        rows = len(first)
        count = min(count, rows)
        different = np.unique(first)
        if len(different) < rows:
            images = distances.rows[torch.from_numpy(different).to(distances.rows.device)]
            distances = Distances(images, images, distances.metric, self._chunk_size)
        nearest = Nearest(len(different), min(count, len(different)))
        for start, block, turned in distances.triangle():
            np.fill_diagonal(block, 0)  # rounding must not put another image before a row's own
            nearest.add(start, start, block)
            nearest.add(start + len(block), start, turned)
        # All images the same: every distance is zero already.
        largest = np.where(nearest.largest > 0, nearest.largest, 1)
        if len(different) == rows:
            return nearest.indices, nearest.values, largest
        indices, values = with_copies(nearest.indices, nearest.values, first, count)
        return indices, values, largest[np.searchsorted(different, first)]

    def _weights(self, indices: Ids, values: NDArray[Any], k1: int) -> csr_array:
        rows = len(indices)
        keys = expanded_sets(indices[:, : k1 + 1], indices[:, : round(k1 / 2) + 1])
        i, j = keys // rows, keys % rows
        nearest = (np.arange(rows)[:, None] * rows + indices).ravel()
        order = np.argsort(nearest)
        at = np.minimum(np.searchsorted(nearest[order], keys), len(order) - 1)
        known = nearest[order[at]] == keys
        distances = values.ravel()[order[at]]
        distances[~known] = self._distances.pairs(i[~known], j[~known])
        weights = np.exp(-distances / self._largest[i])
        weights /= np.bincount(i, weights, rows)[i]
        return csr_array((weights, j, _starts(i, rows)), shape=(rows, rows))

    def _jaccard(self, query: int) -> NDArray[Any]:
        mine, gallery = self._weights_of_queries, self._weights_of_gallery
        part = slice(mine.indptr[query], mine.indptr[query + 1])
        columns = mine.indices[part]
        starts = gallery.indptr[columns]
        counts = gallery.indptr[columns + 1] - starts
        entries = ranges(starts, counts)
        shared = np.minimum(gallery.data[entries], np.repeat(mine.data[part], counts))
        shared = np.bincount(gallery.indices[entries], shared, gallery.shape[0])
        return 1 - shared / (2 - shared)


def _averaged(weights: csr_array, neighbours: Ids) -> csr_array:
    rows, count = neighbours.shape
    starts = np.arange(rows + 1) * count
    mean = csr_array((np.full(rows * count, 1 / count), neighbours.ravel(), starts), shape=(rows, rows))
    return csr_array(mean @ weights)


def _starts(rows: Ids, number: int) -> Ids:
    """Return where each row's entries start in a list sorted by row, and the end."""
    return np.append(0, np.cumsum(np.bincount(rows, minlength=number)))
