"""Tables: mean and spread of repeated runs, as text and as CSV."""

import csv
import io

import numpy as np
import pytest

from kd_mm.utils.tables import Column, Measure, comma_separated, group, markdown

CELLS = [
    {"row": "alone", "test": 90.0, "params": 5214, "extra": None},
    {"row": "with KD", "test": 93.25, "params": 5214, "extra": 3.0},
    {"row": "alone", "test": 91.0, "params": 5214},
    {"row": "alone", "test": 93.5, "params": 5214},
]
COLUMNS = [
    Column("test", "accuracy", spread=True),
    Column("params", "size", ".1f", 1e-3, " k"),
    Column("extra", "more"),
]


def test_spread_is_the_sample_standard_deviation():
    measure = Measure.of([90.0, 91.0, 93.5])
    assert measure.mean == pytest.approx(np.mean([90.0, 91.0, 93.5]))
    assert measure.spread == pytest.approx(np.std([90.0, 91.0, 93.5], ddof=1))
    assert measure.runs == 3
    assert Measure.of([4.0]) == Measure(4.0, None, 1)


def test_rows_as_markdown():
    assert {name: len(cells) for name, cells in group(CELLS, "row").items()} == {"alone": 3, "with KD": 1}
    assert list(group(CELLS, "row")) == ["alone", "with KD"]
    assert markdown(group(CELLS, "row"), COLUMNS, "method").splitlines() == [
        "| method  | runs |     accuracy |  size | more |",
        "| ------- | ---: | -----------: | ----: | ---: |",
        "| alone   |    3 | 91.50 ± 1.80 | 5.2 k |      |",
        "| with KD |    1 |        93.25 | 5.2 k | 3.00 |",
    ]


def test_csv_has_the_numbers_unrounded():
    rows = list(csv.DictReader(io.StringIO(comma_separated(group(CELLS, "row"), COLUMNS, "method"))))
    assert list(rows[0]) == ["method", "runs", "test", "test_std", "params", "extra"]
    assert float(rows[0]["test_std"]) == np.std([90.0, 91.0, 93.5], ddof=1)
    assert float(rows[0]["params"]) == 5214
    assert rows[1]["test_std"] == "" == rows[0]["extra"]
    assert float(rows[1]["extra"]) == 3.0
