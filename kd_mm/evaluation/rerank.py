"""k-reciprocal re-ranking with sparse matrices."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.sparse import csc_array, csr_array

from kd_mm.evaluation.reid_distances import Array, Distances, Ids, k_smallest
from kd_mm.utils.suggest import check_names

DEFAULTS = {"k1": 20, "k2": 6, "lambda_value": 0.3}


def check_options(options: bool | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return ``k1``, ``k2`` and ``lambda_value``, with the paper's values for what is not given; None for none.

    Raises:
        ValueError: A name is unknown, or a value out of range.
    """
    if options is None or options is False:
        return None
    options = {} if options is True else options
    if not isinstance(options, Mapping):
        raise ValueError(f"rerank={options!r}: give True, False or a dict such as {DEFAULTS}")
    check_names(DEFAULTS, options, "rerank")
    given = {**DEFAULTS, **options}
    for name in ("k1", "k2"):
        if isinstance(given[name], bool) or not isinstance(given[name], int | np.integer) or given[name] < 1:
            raise ValueError(f"rerank: {name}={given[name]}: give a number of neighbours, at least 1")
    if not 0 <= given["lambda_value"] <= 1:
        raise ValueError(f"rerank: lambda_value={given['lambda_value']}: give the share of the distance, from 0 to 1")
    return given


def reranked_distances(
    query: Array,
    gallery: Array,
    metric: str = "cosine",
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    chunk_size: int | None = None,
) -> Array:
    """Return distances ``(Q, G)`` re-ranked by how many nearest neighbours two images share (Zhong et al., CVPR 2017).

    Over queries and gallery together, with ``d`` the squared Euclidean distance (of L2-normalised features for cosine),
    each row divided by its maximum, and ``N(i, k)`` the ``k + 1`` images nearest to i, itself among them:

    * ``R(i, k)``: the images of ``N(i, k)`` that have i among their own ``k + 1``;
    * ``R*(i)``: ``R(i, k1)``, and ``R(j, k1 / 2)`` of each j in it of which more than two thirds lie in ``R(i, k1)``;
    * ``V(i, j) = exp(-d(i, j))`` for j in ``R*(i)``, else 0; each row divided by its sum;
    * ``V(i)``, averaged over the ``k2`` images nearest to i: local query expansion;
    * Jaccard distance ``1 - m / (2 - m)`` with ``m = sum_j min(V(i, j), V(g, j))``, as rows of V sum to one;
    * ``(1 - lambda_value) * Jaccard + lambda_value * d``.

    Equal to the authors' dense program up to rounding, without an ``N x N`` matrix. ``k1 / 2`` is rounded half to even;
    equal distances are ordered by image number, queries before the gallery.

    Args:
        query: Features ``(Q, D)``, finite, float32 or float64.
        gallery: Features ``(G, D)`` of the same dtype, without junk, which would count as neighbours.
        metric: ``"cosine"`` or ``"euclidean"``.
        k1: Neighbours whose sets are compared.
        k2: Neighbours to average over.
        lambda_value: Share of the original distance, in [0, 1].
        chunk_size: Rows of distances that are held at once; default: 64 MiB of them, at least 64.
    """
    images = np.concatenate([query, gallery])
    distances = Distances(images, images, metric, chunk_size)
    # Twice the neighbours: they include most images of R*, so that few distances are computed again.
    count = min(max(2 * (k1 + 1), k2), len(images))
    neighbours, near = np.empty((len(images), count), dtype=np.int64), np.empty((len(images), count))
    largest, mixed = np.empty(len(images)), np.empty((len(query), len(gallery)), images.dtype)
    for start, block in distances.blocks(self_zero=True):
        rows = slice(start, start + len(block))
        neighbours[rows], near[rows] = k_smallest(block, count)
        largest[rows] = block.max(axis=1)
        mixed[rows] = block[: max(len(query) - start, 0), len(query) :]
    largest[largest == 0] = 1  # all images are equal
    weights = _weights(neighbours, near, largest, k1, distances)
    if k2 > 1:
        weights = csr_array(_rows(neighbours[:, :k2], 1 / min(k2, count)) @ weights)
    weights_of_gallery = csc_array(weights[len(query) :])
    for i, row in enumerate(mixed):
        row *= lambda_value / largest[i]
        part = slice(weights.indptr[i], weights.indptr[i + 1])
        row += (1 - lambda_value) * _jaccard(weights.indices[part], weights.data[part], weights_of_gallery)
    return mixed


def _rows(columns: Ids, value: float) -> csr_array:
    """Return a square sparse matrix with a value at the given columns ``(N, k)`` of each row."""
    rows, count = columns.shape
    return csr_array((np.full(rows * count, value), columns.ravel(), np.arange(rows + 1) * count), shape=(rows, rows))


def _weights(neighbours: Ids, near: Array, largest: Array, k1: int, distances: Distances) -> csr_array:
    """Return V ``(N, N)`` before the expansion, from the nearest images ``(N, n)`` and their distances."""
    number = len(neighbours)
    members = _expanded_sets(neighbours[:, : k1 + 1], neighbours[:, : round(k1 / 2) + 1])
    i, j = members.nonzero()
    keys, known_keys = i * number + j, (np.arange(number)[:, None] * number + neighbours).ravel()
    order = np.argsort(known_keys)
    at = order[np.minimum(np.searchsorted(known_keys, keys, sorter=order), len(order) - 1)]
    values, unknown = near.ravel()[at], known_keys[at] != keys
    values[unknown] = distances.pairs(i[unknown], j[unknown])
    weights = np.exp(-values / largest[i])
    weights /= np.bincount(i, weights, number)[i]
    return csr_array((weights, (i, j)), shape=(number, number))


def _expanded_sets(neighbours: Ids, half: Ids) -> csr_array:
    """Return ``R*`` as a sparse matrix, non-zero at each member, from neighbours ``(N, k1 + 1)`` and their half."""
    adjacent = _rows(neighbours, 1), _rows(half, 1)
    mutual, half_mutual = (csr_array(matrix.multiply(matrix.T)) for matrix in adjacent)
    sizes = half_mutual.sum(axis=1)
    shared = (mutual @ half_mutual.T).multiply(mutual).tocoo()
    added = 3 * shared.data > 2 * sizes[shared.col]
    pairs = csr_array((np.ones(added.sum()), (shared.row[added], shared.col[added])), shape=mutual.shape)
    return csr_array(mutual + pairs @ half_mutual)


def _jaccard(columns: Ids, weights: Array, gallery: csc_array) -> Array:
    """Return Jaccard distances ``(G,)`` from a query with weights at these columns to the gallery ``(G, N)``."""
    shared = np.zeros(gallery.shape[0])
    for column, weight in zip(columns, weights, strict=True):  # faster than scipy's own indexing
        part = slice(gallery.indptr[column], gallery.indptr[column + 1])
        shared[gallery.indices[part]] += np.minimum(gallery.data[part], weight)
    return np.asarray(1 - shared / (2 - shared))
