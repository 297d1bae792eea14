"""What is smaller than an entry of a row, against counting it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kd_mm.evaluation import reid_counting
from kd_mm.evaluation.reid_counting import count_smaller


@pytest.fixture(params=[1, 3])
def threads(request: Any) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def tables(kind: str, width: int) -> Any:
    """Numbers of both signs and of all sizes, and both zeros."""
    random = np.random.default_rng(width)
    if kind == "few":
        table = random.integers(-3, 4, (61, width)).astype(np.float32)
        return np.where(random.random(table.shape) < 0.5, table, -table)  # -0.0 beside 0.0
    size = 10.0 ** random.integers(-38, 38, (61, width))
    return (random.standard_normal((61, width)) * size).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["few", "all sizes"])
@pytest.mark.parametrize("width", [1, 7, 200])
@pytest.mark.parametrize("entries", [1, 1000, 10**6])
def test_counts(threads: int, entries: int, width: int, kind: str, dtype: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(reid_counting, "_ENTRIES", entries)
    table = tables(kind, width).astype(dtype)
    table[:, width // 2 + 1 :][:, ::3] = np.inf
    chosen = np.isfinite(table) & (np.random.default_rng(0).random(table.shape) < min(0.5, 9 / width))
    chosen[[0, 17, 18, 60]] = False  # rows that nothing is asked of
    rows, columns = chosen.nonzero()
    values = table[rows, columns]
    smaller, tied = count_smaller(table, rows, values)
    np.testing.assert_array_equal(smaller, [(table[i] < value).sum() for i, value in zip(rows, values, strict=True)])
    np.testing.assert_array_equal(tied, [(table[i] == value).sum() > 1 for i, value in zip(rows, values, strict=True)])


def test_part_of_a_larger_table(threads: int) -> None:
    table = tables("all sizes", 200)
    rows, columns = np.arange(61), np.arange(61) % 50
    part = table[:, 100:150]
    for expected, found in zip(
        count_smaller(part.copy(), rows, part[rows, columns]),
        count_smaller(part, rows, part[rows, columns]),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


def test_nothing_is_asked() -> None:
    smaller, tied = count_smaller(np.zeros((5, 4), dtype=np.float32), np.zeros(0, dtype=np.int64), np.zeros(0))
    assert len(smaller) == len(tied) == 0


def test_an_error_in_a_thread_is_told(threads: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(reid_counting, "_ENTRIES", 2 * 200)
    monkeypatch.setattr(reid_counting, "_keys", lambda rows, values: values.nothing)
    table = tables("few", 200)
    with pytest.raises(AttributeError, match="nothing"):
        count_smaller(table, np.arange(61), table[:, 0])
