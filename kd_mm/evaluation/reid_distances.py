"""Distances between two sets of features, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: A block of distances takes this many bytes, or this many rows where these are more.
_BLOCK_BYTES, _BLOCK_ROWS = 2**26, 64
_SQUARED_ROWS = 4096
#: Euclidean features lose digits where their mean is this much longer than their spread.
_OFF_CENTRE = 4.0


class Distances:
    """Distances from rows ``(R, D)`` to columns ``(C, D)``: ``1 - cos``, or the squared Euclidean distance.

    Half the squared Euclidean distance of L2-normalised features is ``1 - cos``. Products are taken of the features as
    given and scaled afterwards, and columns that are the same bit by bit get the same distance wherever they stand, so
    that what ties by arithmetic ties here, whatever the order in which a library sums.

    Args:
        rows: Finite features, float32 or float64.
        columns: The same dtype, on the same device; may be ``rows`` itself.
        metric: ``"cosine"`` or ``"euclidean"``.
        chunk_size: Rows of a block; default: 64 MiB of distances, at least 64 rows.
    """

    def __init__(self, rows: Tensor, columns: Tensor, metric: str, chunk_size: int | None = None) -> None:
        self.metric = metric
        self._given_size = chunk_size
        size = columns.element_size() * len(columns)
        self.chunk_size = chunk_size or max(_BLOCK_BYTES // size, _BLOCK_ROWS)
        same = rows is columns
        if metric == "euclidean":
            centre = _centre(columns)
            if centre is not None:
                columns = columns - centre
                rows = columns if same else rows - centre
        self.rows, self.columns = rows, columns
        self._row_scale = self._scale(rows)
        self._column_scale = self._row_scale if same else self._scale(columns)
        #: For each column the number of the first one that is the same bit by bit.
        self.first = first_equal_rows(columns)
        copies = np.flatnonzero(self.first != np.arange(len(self.first)))
        self._copies = torch.from_numpy(copies).to(columns.device)
        self._originals = torch.from_numpy(self.first[copies]).to(columns.device)

    def blocks(self, stop: int | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the number of the first row and the distances ``(n, C)`` of n rows, until all rows were there.

        The memory of a block is used again for the next one; whoever takes it may write into it.

        Args:
            stop: Take only the rows before this one.
        """
        stop = len(self.rows) if stop is None else stop
        size = min(self.chunk_size, stop), len(self.columns)
        buffer = torch.empty(size, dtype=self.rows.dtype, device=self.rows.device)
        for start in range(0, stop, self.chunk_size):
            rows = slice(start, min(start + self.chunk_size, stop))
            part = self.rows[rows]
            block = buffer[: len(part)]
            with _full_precision(block.device.type):
                _multiply(part, self.columns, block)
                self._finish(block, self._row_scale[rows, None], self._column_scale)
                if len(self._copies):
                    block[:, self._copies] = block[:, self._originals]
            yield start, block.cpu().numpy()

    def triangle(self) -> Iterator[tuple[int, NDArray[Any], NDArray[Any]]]:
        """Yield all distances of rows that are the columns too, all different; each product is made once.

        Yields:
            The number of the first of n rows; distances ``(n, m)`` from them to themselves and all that follow, and
            ``(m - n, n)`` from those that follow to them; both in memory that is used again.
        """
        total, cells = len(self.columns), _BLOCK_BYTES // self.columns.element_size()
        largest = self._given_size * total if self._given_size else max(cells, _BLOCK_ROWS * total)
        buffers = self.columns.new_empty((2, min(largest, total * total)))
        start = 0
        while start < total:
            left = total - start
            count = min(self._given_size or max(cells // left, _BLOCK_ROWS), left)
            stop = start + count
            block = buffers[0, : count * left].view(count, left)
            turned = buffers[1, : count * (left - count)].view(left - count, count)
            with _full_precision(block.device.type):
                _multiply(self.rows[start:stop], self.columns[start:], block)
                turned.copy_(block[:, count:].T)
                self._finish(block, self._row_scale[start:stop, None], self._column_scale[start:])
                self._finish(turned, self._row_scale[stop:, None], self._column_scale[start:stop])
            yield start, block.cpu().numpy(), turned.cpu().numpy()
            start = stop

    def pairs(self, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[Any]:
        """Return the distances ``(P,)`` from ``rows[p]`` to ``columns[p]``."""
        distances = np.empty(len(rows))
        step = max(_BLOCK_BYTES // (2 * self.rows.shape[1] * self.rows.element_size()), 1)
        for start in range(0, len(rows), step):
            here = slice(start, start + step)
            i, j = (torch.from_numpy(part[here]).to(self.rows.device) for part in (rows, columns))
            with _full_precision(self.rows.device.type):
                product = self.rows[i].mul_(self.columns[j]).sum(dim=1)
                distances[here] = self._finish(product, self._row_scale[i], self._column_scale[j]).cpu().numpy()
        return distances

    def _scale(self, features: Tensor) -> Tensor:
        """Return the inverse norm of each row for cosine, its squared norm for Euclidean distances."""
        squares = torch.cat([part.square().sum(dim=1) for part in features.split(_SQUARED_ROWS)])
        if self.metric != "cosine":
            return squares
        # GPUs approximate this root, so that features of one direction would not tie.
        return squares.cpu().rsqrt().to(squares.device)

    def _finish(self, products: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        if self.metric == "cosine":
            products.mul_(columns).mul_(rows).neg_().add_(1)
        else:
            products.mul_(-2).add_(columns).add_(rows)
        return products.clamp_(min=0)


def first_equal_rows(features: Tensor) -> NDArray[np.int64]:
    """Return for each row ``(N,)`` the number of the first row that is the same bit by bit."""
    seen: dict[bytes, int] = {}
    rows = np.ascontiguousarray(features.cpu().numpy())
    digests = (blake2b(row.data, digest_size=16).digest() for row in rows)
    found = (seen.setdefault(digest, i) for i, digest in enumerate(digests))
    return np.fromiter(found, dtype=np.int64, count=len(rows))


def _multiply(rows: Tensor, columns: Tensor, out: Tensor) -> None:
    """Write ``rows @ columns.T``, on CPUs by NumPy's library: MKL, which torch has, is half as slow again on AMD's."""
    if rows.device.type == "cpu":
        np.matmul(rows.numpy(), columns.numpy().T, out=out.numpy())
    else:
        torch.mm(rows, columns.T, out=out)


@contextmanager
def _full_precision(device: str) -> Iterator[None]:
    """Keep autocast and TF32, which a test run may have switched on, from rounding the products."""
    restore = _switch_off_tf32()
    try:
        with torch.no_grad(), torch.autocast(device, enabled=False):
            yield
    finally:
        restore()


def _switch_off_tf32() -> Callable[[], None]:
    """Return what puts back the state before."""
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # set by backend, through torch's newer switches: there is no one answer
        switch: Any = torch.backends.cuda.matmul
        before = switch.fp32_precision
        switch.fp32_precision = "none"
        before = "none" if switch.fp32_precision == before else before  # else it would no longer follow all backends'
        switch.fp32_precision = "ieee"
        return lambda: setattr(switch, "fp32_precision", before)
    if precision == "highest":
        return lambda: None
    torch.set_float32_matmul_precision("highest")
    return lambda: torch.set_float32_matmul_precision(precision)


def _centre(features: Tensor) -> Tensor | None:
    """Return what to subtract, or None where nothing is to be won.

    It is the mean, on a grid as coarse as the spread, so that whole numbers stay whole and their ties stay ties.
    """
    mean = features.mean(dim=0)
    energy = torch.linalg.vector_norm(features, dim=1).double().square().mean()
    length = mean.double().square().sum()
    spread = float((energy - length).clamp(min=0))
    if float(length) <= _OFF_CENTRE**2 * spread:
        return None
    typical = (max(spread, 1e-12 * float(length)) / features.shape[1]) ** 0.5
    grid = 2.0 ** np.floor(np.log2(typical))
    return (mean / grid).round() * grid
