"""Tables of repeated runs (a cell is a run, a row a method, with mean and spread), and rich tables as text."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """One number over repeated runs.

    Attributes:
        mean: Over the runs.
        spread: Sample standard deviation (divided by n - 1); ``None`` for a single run.
        runs: n.
    """

    mean: float
    spread: float | None
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Measure:
        """Summarise the values of one or more runs."""
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), spread, len(values))


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        key: Where a cell holds the number. A cell without it, or with ``None`` there, is left out.
        title: Head of the column.
        form: Format of the mean, e.g. ``".2f"``.
        factor: Multiplies every number first.
        unit: Written after the number.
        spread: Whether the spread is printed.
    """

    key: str
    title: str
    form: str = ".2f"
    factor: float = 1.0
    unit: str = ""
    spread: bool = False

    def measure(self, cells: Sequence[Cell]) -> Measure | None:
        """Summarise this column over the cells of one row; ``None`` where no cell has the number."""
        values = [self.factor * cell[self.key] for cell in cells if cell.get(self.key) is not None]
        return Measure.of(values) if values else None

    def text(self, cells: Sequence[Cell]) -> str:
        """Return what stands in the table for one row."""
        measure = self.measure(cells)
        if measure is None:
            return ""
        spread = f" ± {measure.spread:{self.form}}" if self.spread and measure.spread is not None else ""
        return f"{measure.mean:{self.form}}{spread}{self.unit}"


def group(cells: Sequence[Cell], key: str) -> dict[str, list[Cell]]:
    """Return cells by the value of ``key``: the rows of a table, in the order in which they first occur."""
    rows: dict[str, list[Cell]] = {}
    for cell in cells:
        rows.setdefault(str(cell[key]), []).append(cell)
    return rows


def markdown(rows: Mapping[str, Sequence[Cell]], columns: Sequence[Column], head: str) -> str:
    """Return a Markdown table of rows by name, padded so that it reads well as plain text too.

    ``head`` is the title of the first column.
    """
    lines = [[head, "runs", *(column.title for column in columns)]]
    for name, cells in rows.items():
        lines.append([name, str(len(cells)), *(column.text(cells) for column in columns)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))]
        for line in lines
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in [padded[0], rule, *padded[1:]])


def comma_separated(rows: Mapping[str, Sequence[Cell]], columns: Sequence[Column], head: str) -> str:
    """Return the table as CSV with full precision: ``<key>`` and, where a spread is printed, ``<key>_std``.

    Numbers are as the cells hold them; factor, form and unit belong to the Markdown table alone.
    """
    raw = [Column(column.key, column.title, spread=column.spread) for column in columns]
    names = [name for c in raw for name in ([c.key, f"{c.key}_std"] if c.spread else [c.key])]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([head, "runs", *names])
    for name, cells in rows.items():
        line: list[Any] = [name, len(cells)]
        for column in raw:
            measure = column.measure(cells)
            line.append("" if measure is None else measure.mean)
            if column.spread:
                line.append("" if measure is None or measure.spread is None else measure.spread)
        writer.writerow(line)
    return text.getvalue()


def render(*tables: Table, width: int = 118) -> str:
    """Return rich tables as plain text."""
    console = Console(width=width, no_color=True, highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        for table in tables:
            console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
