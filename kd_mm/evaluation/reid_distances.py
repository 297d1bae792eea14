"""Queries and gallery of an evaluation of retrieval, and the distances between them, a block of queries at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_mm.utils.suggest import choice

Array: TypeAlias = NDArray[Any]
Ids: TypeAlias = NDArray[np.int64]
#: Person id of images that count as neither right nor wrong.
JUNK = -1
DISTANCES = ("cosine", "euclidean")
#: A block of distances has this many bytes, or this many rows where these are more.
_BLOCK_BYTES, _BLOCK_ROWS = 2**26, 64
_SQUARED_ROWS = 4096
#: Outside of these norms, squares leave the range of float32.
_LEAST_NORM, _LARGEST_NORM = 1e-18, 1e18


@dataclass(frozen=True)
class Images:
    """Queries or gallery."""

    features: Array  # (N, D)
    pids: Ids  # (N,)
    camids: Ids | None  # (N,), or None without the camera rule
    paths: Sequence[str] = ()  # N paths, or none

    def __len__(self) -> int:
        return len(self.pids)

    def without_junk(self) -> Images:
        """Return the images that are not junk, without their paths."""
        kept = self.pids != JUNK
        return Images(self.features[kept], self.pids[kept], None if self.camids is None else self.camids[kept])


def read_images(query: tuple[Any, Any, Any], gallery: tuple[Any, Any, Any], metric: str) -> tuple[Images, Images]:
    """Check queries and gallery, each given as features, person ids and camera ids, as arrays or tensors.

    Returns:
        Both, with features of one dtype: float64 where given or where squares leave the range of float32, else float32.

    Raises:
        ValueError: Shapes, dtypes, values or options do not fit.
    """
    choice("metric", metric, DISTANCES)
    if (query[2] is None) != (gallery[2] is None):
        side = "queries" if query[2] is None else "gallery"
        raise ValueError(f"the {side} have no camera ids: give camera ids of both, or None for both: no camera rule")
    features = _read_features(query[0], "query", metric), _read_features(gallery[0], "gallery", metric)
    lengths = [side.shape[1] for side in features]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"query features have {lengths[0]} values, gallery features {lengths[1]}: take both from the same network"
        )
    dtype = np.result_type(*features)
    sides = []
    for name, values, (_, pids, camids) in zip(("query", "gallery"), features, (query, gallery), strict=True):
        cameras = None if camids is None else _read_ids(camids, len(values), name, "camera")
        sides.append(Images(values.astype(dtype, copy=False), _read_ids(pids, len(values), name, "person"), cameras))
    if (sides[1].pids == JUNK).all():
        raise ValueError(f"all {len(sides[1])} images of the gallery are junk (person id {JUNK}): nothing can be found")
    return sides[0], sides[1]


def _read_features(given: Any, name: str, metric: str) -> Array:
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        given = (given.float() if given.itemsize < 4 else given).numpy()  # NumPy has no bfloat16
    try:
        values = np.asarray(given)
        if values.dtype.kind == "c":
            raise TypeError("they are complex")
        values = np.ascontiguousarray(values, np.float64 if values.dtype.newbyteorder("=") == "f8" else np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} features are no matrix of numbers: {error}") from None
    if values.ndim != 2 or not values.size:
        raise ValueError(f"{name} features have shape {values.shape}: give a matrix, one row an image, not empty")
    norms = np.sqrt(_squares(values))
    if not np.isfinite(norms).all() and not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        raise ValueError(
            f"{len(bad)} of {len(values)} {name} features hold NaN or infinity, the first being number {bad[0]}: has "
            "the model diverged?"
        )
    small = norms < _LEAST_NORM
    zero = small & (values == 0).all(axis=1) if small.any() else small
    if metric == "cosine" and zero.any():
        raise ValueError(
            f"{name} feature {np.flatnonzero(zero)[0]} is all zero: it has no direction, so cosine similarity is "
            "undefined; has the network collapsed? (metric='euclidean' takes it)"
        )
    return values.astype(np.float64, copy=False) if (small & ~zero | (norms > _LARGEST_NORM)).any() else values


def _read_ids(given: Any, number: int, name: str, kind: str) -> Ids:
    array = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if array.shape != (number,):
        raise ValueError(
            f"{number} {name} features, but {kind} ids of shape {array.shape}: give one {kind} id for each image"
        )
    if array.dtype.kind not in "iufb" or (array.dtype.kind == "f" and not (array == np.rint(array)).all()):
        raise ValueError(f"{name} {kind} ids are not all integers: {array[:3].tolist()} ...")
    return array.astype(np.int64)


class Distances:
    """Distances from rows ``(R, D)`` to columns ``(C, D)``: ``1 - cos``, or the squared Euclidean distance.

    Ties are exact: products use the features as given and scaled afterwards, and equal columns have equal
    distances, whatever the order in which a BLAS sums.

    Args:
        rows: Finite features, float32 or float64.
        columns: Features of the same dtype; the very ``rows`` for the distances within one set.
        metric: ``"cosine"`` or ``"euclidean"``.
        chunk_size: Rows of a block; default: 64 MiB of distances, at least 64 rows.
    """

    def __init__(self, rows: Array, columns: Array, metric: str, chunk_size: int | None = None) -> None:
        same = rows is columns
        if metric == "euclidean":
            centre = _centre(columns)
            if centre.any():
                columns = columns - centre
                rows = columns if same else rows - centre
        self.rows, self.columns, self.metric = rows, columns, metric
        self.chunk_size = chunk_size or max(_BLOCK_BYTES // (columns.itemsize * len(columns)), _BLOCK_ROWS)
        self._column_scale = self._scale(columns)
        self._row_scale = self._column_scale if same else self._scale(rows)
        self._first = _first_equal(columns, self._column_scale)
        self._copies = np.flatnonzero(self._first != np.arange(len(columns)))

    def blocks(self, self_zero: bool = False) -> Iterator[tuple[int, Array]]:
        """Yield the number of the first row and the distances ``(n, C)`` of n rows at a time.

        The memory of a block is reused for the next one; it may be written to.

        Args:
            self_zero: Set the distance of row i to column i to exactly zero.
        """
        stop = len(self.rows)
        buffer = np.empty((min(self.chunk_size, stop), len(self.columns)), dtype=self.columns.dtype)
        for start in range(0, stop, self.chunk_size):
            rows = slice(start, min(start + self.chunk_size, stop))
            block = np.matmul(self.rows[rows], self.columns.T, out=buffer[: rows.stop - start])
            self._finish(block, self._row_scale[rows, None], self._column_scale)
            if self_zero:
                block[np.arange(len(block)), self._first[rows]] = 0
            block[:, self._copies] = block[:, self._first[self._copies]]
            yield start, block

    def pairs(self, rows: Ids, columns: Ids) -> Array:
        """Return the distances ``(P,)`` from ``rows[p]`` to ``columns[p]``."""
        products = np.empty(len(rows), dtype=self.columns.dtype)
        step = max(_BLOCK_BYTES // (2 * self.columns[:1].nbytes), 1)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            products[part] = np.einsum("ij,ij->i", self.rows[rows[part]], self.columns[columns[part]])
        return self._finish(products, self._row_scale[rows], self._column_scale[columns])

    def _scale(self, features: Array) -> Array:
        """Return the inverse norm of each row for cosine, its squared norm for Euclidean distances."""
        squares = _squares(features)
        return 1 / np.sqrt(squares) if self.metric == "cosine" else squares

    def _finish(self, products: Array, rows: Array, columns: Array) -> Array:
        if self.metric == "cosine":
            products *= columns
            products *= rows
            np.subtract(1, products, out=products)
        else:
            products *= -2
            products += columns
            products += rows
        return np.maximum(products, 0, out=products)


def k_smallest(values: Array, count: int) -> tuple[Ids, Array]:
    """Return indices and values ``(B, count)`` of the smallest values of each row, ascending; equal ones by index.

    Args:
        values: ``(B, N)`` without NaN.
        count: At most N.
    """
    indices = np.empty((len(values), count), dtype=np.int64)
    for i, row in enumerate(values):
        limit = np.partition(row, count - 1)[count - 1]
        near = np.flatnonzero(row <= limit)
        indices[i] = near[np.argsort(row[near], kind="stable")[:count]]
    return indices, np.take_along_axis(values, indices, axis=1)


def _first_equal(features: Array, scale: Array) -> Ids:
    """Return for each row the number of the first row that is equal; equal rows have the same scale."""
    _, group, counts = np.unique(scale, return_inverse=True, return_counts=True)
    some = np.flatnonzero(counts[group] > 1)
    # Rows as opaque bytes: sorting compares them with memcmp.
    rows = np.ascontiguousarray(features[some]).view(np.dtype((np.void, features[:1].nbytes)))
    _, first, group = np.unique(rows.ravel(), return_index=True, return_inverse=True)
    result = np.arange(len(features))
    result[some] = some[first[group]]
    return result


def _squares(features: Array) -> Array:
    parts = torch.from_numpy(features).split(_SQUARED_ROWS)
    return torch.cat([part.square().sum(dim=1) for part in parts]).numpy()


def _centre(features: Array) -> Array:
    """Return what to subtract from features so that few digits cancel in ``|a|^2 + |b|^2 - 2 ab``.

    The mean on a grid as coarse as the spread, so that integers stay integers and their ties stay ties; zero where it
    is not much longer than the spread.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    length = np.square(mean).sum()
    spread = max(_squares(features).mean(dtype=np.float64) - length, 0.0)
    if length <= 16 * spread:
        return np.zeros(features.shape[1], dtype=features.dtype)
    grid = 2.0 ** np.floor(np.log2(np.sqrt(max(spread, 1e-12 * length) / features.shape[1])))
    return np.asarray((mean / grid).round() * grid, dtype=features.dtype)
