"""A quickstart: a teacher, and students alone and distilled, on small generated data; one table and one picture.

What is compared, measured and drawn is data (:class:`Quickstart`); running it is the same for all.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_mm.apis.overrides import set_epochs
from kd_mm.apis.recipes import compose
from kd_mm.apis.rows import Row, Sweep
from kd_mm.apis.runner import read_config
from kd_mm.apis.sweep import plan_jobs
from kd_mm.engine.jobs import Job, Result, run_jobs
from kd_mm.utils.atomic_files import replace_file
from kd_mm.utils.config import is_distillation
from kd_mm.utils.tables import Cell, Column, comma_separated, group, markdown

#: The row that trains the teacher, once.
TEACHER = "teacher"
_COSTS = (
    Column("params", "parameters", ".1f", 1e-3, " k"),
    Column("macs", "multiply-adds", ".2f", 1e-6, " M"),
    Column("seconds", "seconds", ".1f"),
)


@dataclass(frozen=True)
class Quickstart:
    """What a quickstart compares, measures and draws.

    Attributes:
        name: Its default work dir under ``work_dirs``.
        configs: Name of the shipped config by title of its row; the first row is :data:`TEACHER`.
        metrics: Test metrics, larger is better; the first is reported while it runs.
        metric_title: What the first metric is called.
        columns: Heads of the table's columns by what they hold, before those of the costs.
        seeds: Seeds of the students where none are given.
        draw: Writes the picture to a path; takes the work dirs of each row's runs by the row's title.
        with_exits: Whether the teacher is trained together with exits on its stages.
        save_predictions: Whether each run writes its predictions on the test data, ``predictions.pkl``.
    """

    name: str
    configs: Mapping[str, str]
    metrics: tuple[str, ...]
    metric_title: str
    columns: Mapping[str, str]
    seeds: tuple[int, ...]
    draw: Callable[[Mapping[str, Sequence[Path]], Path], None]
    with_exits: bool = False
    save_predictions: bool = False

    def sweep(self, seeds: Sequence[int] | None = None, epochs: int | None = None) -> Sweep:
        """Return the sweep: the teacher once, every student under every seed; rows by the name of their config."""
        rows = {}
        for title, name in self.configs.items():
            config = read_config(f"kd_mm::quickstart/{name}.py")
            factor = 1.0 if epochs is None else set_epochs(config, epochs)
            if title == TEACHER:
                rows[name] = Row(compose(config, "exits", None, None) if self.with_exits else config, seeds=(0,))
                continue
            if not is_distillation(config):
                rows[name] = Row(config)
                continue
            if factor < 1:  # a shortened teacher may know next to nothing
                config.default_hooks.teacher_check.min_score = 0.0
            rows[name] = Row(config, teacher_row=self.configs[TEACHER])
        return Sweep(rows, self.seeds if seeds is None else tuple(seeds), self.metrics)


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

    Finished runs of an earlier call are used again; one that was cut off goes on from its last checkpoint.

    Args:
        quickstart: What is compared.
        work_dir: Where everything is written; the runs are in ``runs/``.
        seeds: Seeds of the students, default the quickstart's own.
        epochs: Length of each training, default that of the configs.
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
    jobs = plan_jobs(sweep, work_dir.absolute(), quickstart.save_predictions)
    cells: list[Result] = []

    def describe(job: Job, cell: Result, stored: bool) -> None:
        cells.append(cell)
        score = f"{quickstart.metric_title} {cell[quickstart.metrics[0]]:6.2f} %"
        duration = "kept from before" if stored else f"{cell['seconds']:.1f} s"
        run = f"{titles[cell['row']]}, seed {cell['seed']}"
        report(f"[{len(cells):2d}/{len(jobs)}] {run:<26} {score}   {duration}")

    results = run_jobs(jobs, work_dir.absolute() / "runs", processes, describe)
    rows = group([{**cell, "row": titles[cell["row"]]} for cell in results.values()], "row")
    columns = [*(Column(key, head, spread=True) for key, head in quickstart.columns.items()), *_COSTS]
    table = f"{markdown(rows, columns, 'network')}\n{_note(rows, quickstart.with_exits)}\n"
    replace_file(work_dir / "table.md", table.encode())
    replace_file(work_dir / "table.csv", comma_separated(rows, columns, "network").encode())
    replace_file(work_dir / "results.json", (json.dumps([*itertools.chain(*rows.values())], indent=2) + "\n").encode())
    homes = {title: [work_dir / "runs" / cell["run"] for cell in runs] for title, runs in rows.items()}
    quickstart.draw(homes, work_dir / "quickstart.png")
    return table


def _note(rows: Mapping[str, Sequence[Cell]], with_exits: bool) -> str:
    note = (
        "Mean ± standard deviation over the runs. Seconds are those of one training, validation included, on one\n"
        "thread; "
    )
    if with_exits:
        return f"{note}the teacher is trained together with its exits."
    seconds, row = max((cell["preparation_seconds"], row) for row, cells in rows.items() for cell in cells)
    return f"{note}the teacher's exits, trained once before {row.rpartition(', ')[2]}, took {seconds:.1f} s more."
