"""A quickstart: a teacher, and students alone and distilled, on small generated data; one table and one picture.

What is compared, measured and drawn is data (:class:`Quickstart`); running it is the same for all.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_mm.apis.budget import set_epochs
from kd_mm.apis.rows import Row, Sweep
from kd_mm.apis.runner import read_config
from kd_mm.apis.sweep import run_sweep
from kd_mm.quickstart.curves import Records, read_scalars
from kd_mm.utils.config import is_distillation
from kd_mm.utils.tables import Cell, Column, group, write_tables

#: The row that trains the teacher, once.
TEACHER = "teacher"


@dataclass(frozen=True)
class Quickstart:
    """What a quickstart compares, measures and draws.

    Attributes:
        name: Its default work dir under ``work_dirs``.
        configs: Name of the shipped config by title of its row; the first row is :data:`TEACHER`.
        metrics: Test metrics, larger is better; the first is reported while it runs.
        metric_title: What the first metric is called.
        columns: Of the table.
        seeds: Seeds of the students where none are given.
        draw: Writes the picture to a path; takes the work dirs of each row's runs by the row's title.
        save_predictions: Whether each run keeps what it predicts on the test data, as ``predictions.pkl``.
    """

    name: str
    configs: Mapping[str, str]
    metrics: tuple[str, ...]
    metric_title: str
    columns: Sequence[Column]
    seeds: tuple[int, ...]
    draw: Callable[[Mapping[str, Sequence[Path]], Path], None]
    save_predictions: bool = False

    def sweep(self, seeds: Sequence[int] | None = None, epochs: int | None = None) -> Sweep:
        """Return the sweep: the teacher once, every student under every seed; rows by the name of their config."""
        rows = {}
        for title, name in self.configs.items():
            config = read_config(f"kd_mm::quickstart/{name}.py")
            factor = 1.0 if epochs is None else set_epochs(config, epochs)
            if not is_distillation(config):
                rows[name] = Row(config, seeds=(0,) if title == TEACHER else None)
                continue
            if factor < 1:  # a shortened teacher may know next to nothing
                config.default_hooks.teacher_check.min_score = 0.0
            rows[name] = Row(config, teacher_row=self.configs[TEACHER])
        return Sweep(rows, self.seeds if seeds is None else tuple(seeds), self.metrics)


def read_logs(homes: Sequence[Path]) -> list[Records]:
    """Return what each run of a row logged."""
    return [read_scalars(home) for home in homes]


def run_quickstart(
    quickstart: Quickstart,
    work_dir: Path,
    seeds: Sequence[int] | None = None,
    epochs: int | None = None,
    processes: int = 2,
    fresh: bool = False,
    report: Callable[[str], object] = lambda line: None,
) -> str:
    """Run a comparison and write ``table.md``, ``table.csv``, ``results.json`` and ``quickstart.png``.

    Finished runs of an earlier call are kept; one that was cut off goes on from its last
    checkpoint.

    Args:
        quickstart: What is compared.
        work_dir: Where everything is written; the runs are in ``runs/``.
        seeds: Seeds of the students, default the quickstart's own.
        epochs: Length of each training, default as the configs say.
        processes: Trainings side by side, one thread each.
        fresh: Delete the runs of earlier calls first.
        report: Takes a line for each finished run.

    Returns:
        The table as text.

    Raises:
        ValueError: No seed, a seed twice, or fewer than one epoch or process.
        JobFailedError: A run failed.
    """
    if processes < 1 or (epochs is not None and epochs < 1):
        raise ValueError(f"quickstart: epochs and processes start at 1, got {epochs} and {processes}")
    sweep = quickstart.sweep(seeds, epochs)
    if fresh:
        shutil.rmtree(work_dir / "runs", ignore_errors=True)
    titles = {name: title for title, name in quickstart.configs.items()}
    total = sum(len(row.seeds or sweep.seeds) for row in sweep.rows.values())
    finished = 0

    def describe(cell: Cell, kept: bool) -> None:
        nonlocal finished
        finished += 1
        score = f"{quickstart.metric_title} {cell[quickstart.metrics[0]]:6.2f} %"
        duration = "kept from before" if kept else f"{cell['seconds']:.1f} s"
        run = f"{titles[cell['row']]}, seed {cell['seed']}"
        report(f"[{finished:2d}/{total}] {run:<26} {score}   {duration}")

    cells = run_sweep(sweep, work_dir, processes, describe, quickstart.save_predictions)
    rows = group([{**cell, "row": titles[cell["row"]]} for cell in cells], "row")
    table = write_tables(rows, quickstart.columns, "network", work_dir, _note(rows))
    homes = {title: [work_dir / "runs" / cell["run"] for cell in runs] for title, runs in rows.items()}
    quickstart.draw(homes, work_dir / "quickstart.png")
    return table


def _note(rows: Mapping[str, Sequence[Cell]]) -> str:
    seconds = {row: max(cell["preparation_seconds"] for cell in cells) for row, cells in rows.items()}
    longest = max(seconds, key=seconds.__getitem__)
    return (
        "Mean ± standard deviation over the runs. Seconds are those of one training, validation included, on one\n"
        f"thread; the teacher's exits, trained once before {longest.rpartition(', ')[2]}, took "
        f"{seconds[longest]:.1f} s more."
    )
