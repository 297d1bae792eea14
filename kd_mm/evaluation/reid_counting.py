"""How many entries of a row are smaller than some of its own, without sorting the row."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

#: Entries that are looked through at once: with what comes of them, they stay in the cache of one processor core.
_ENTRIES = 2**18
#: With more threads than these the interpreter, which each call of NumPy waits for, is what they work on.
_MOST_THREADS = 8


def count_smaller(
    table: NDArray[Any], rows: NDArray[np.int64], values: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Count in each given row what is smaller than a given entry of it.

    Only what is no larger than the largest given entry of its row is ever sorted. NumPy does all of the work, some rows
    at a time, in as many threads as torch would take.

    Args:
        table: ``(B, G)``, without NaN or negative infinity.
        rows: ``(M,)``: numbers of rows, ascending.
        values: ``(M,)``, finite: an entry of each of these rows.

    Returns:
        ``(M,)``: how many entries of the row are smaller, and whether further ones are equal.
    """
    width = table.shape[1]
    height = max(_ENTRIES // width, 1) if table.dtype == np.float32 else 1
    limits = np.full((len(table), 1), -np.inf, dtype=table.dtype)
    np.maximum.at(limits[:, 0], rows, values)
    edges = rows.searchsorted(np.arange(0, len(table) + height, height))
    starts, inside = np.arange(height) * width, rows % height
    wanted = _keys(inside, values) if height > 1 else values
    smaller, tied = np.empty(len(rows), dtype=np.int64), np.empty(len(rows), dtype=bool)
    blocks = iter(range(len(edges) - 1))

    def count() -> None:
        mask = np.empty((height, width), dtype=bool)
        for block in blocks:
            some, here = slice(block * height, (block + 1) * height), slice(edges[block], edges[block + 1])
            part = table[some]
            near = np.less_equal(part, limits[some], out=mask[: len(part)]).ravel().nonzero()[0]
            keys = part.ravel().take(near)  # a third of the time of part[mask]
            if height > 1:
                keys = _keys(near // width, keys)
            keys.sort()
            value = wanted[here]
            place = keys.searchsorted(value)
            smaller[here] = place - near.searchsorted(starts).take(inside[here]) if height > 1 else place
            place += 1
            tied[here] = (place < len(keys)) & (keys.take(place, mode="clip") == value)

    threads = min(torch.get_num_threads(), len(edges) - 1, _MOST_THREADS)
    if threads <= 1:
        count()
    else:
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(count) for _ in range(threads)]:
                done.result()
    return smaller, tied


def _keys(rows: NDArray[np.int64], values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return numbers in the order of the rows and, within a row, of the values; equal ones for what is equal."""
    bits = values + np.float32(0)  # makes one zero of two
    whole: NDArray[np.int32] = bits.view(np.int32)
    whole ^= whole >> 31 & 0x7FFFFFFF  # a negative number is stored as its sign and its size
    keys = rows << 32
    keys += whole
    return keys
