"""A quickstart: a teacher, and students alone and distilled, on real images; one table and one picture.

What is compared, measured and drawn is data (:class:`Quickstart`); running it is the same for all.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from kd_mm.apis.cells import Job, Result, fingerprint, run_jobs, share_preparations, train_and_test
from kd_mm.apis.compose import config_root
from kd_mm.apis.plots import Records, read_scalars
from kd_mm.apis.run import read_config
from kd_mm.apis.tables import Column, comma_separated, group, markdown
from kd_mm.engine.atomic_files import replace_file

#: Keys of learning rate schedules that count epochs.
_LENGTHS = ("T_max", "total_steps", "begin", "end")


@dataclass(frozen=True)
class Run:
    """One cell of the table.

    Attributes:
        row: Its row.
        config: Path of its config.
        seed: Seed of its weights, data order and augmentation.
        needs: Runs that have to be finished before.
        shares: Runs that have to have begun their training before, see :class:`kd_mm.apis.cells.Job`.
    """

    row: str
    config: str
    seed: int
    needs: tuple[Run, ...] = ()
    shares: tuple[Run, ...] = ()

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{Path(self.config).stem}_seed{self.seed}"


@dataclass(frozen=True)
class Finished:
    """The runs of a quickstart, for its drawing.

    Attributes:
        runs: All of them.
        folder: Where their folders are.
    """

    runs: Sequence[Run]
    folder: Path

    def homes(self, row: str) -> list[Path]:
        """Return the folders of a row's runs."""
        return [self.folder / run.name for run in self.runs if run.row == row]

    def logs(self, row: str) -> list[Records]:
        """Return what each run of a row logged."""
        return [read_scalars(home) for home in self.homes(row)]


@dataclass(frozen=True)
class Quickstart:
    """What a quickstart compares, measures and draws.

    Attributes:
        name: Its default work dir under ``work_dirs``.
        configs: Name of the shipped config by row; the first row is the teacher, trained once.
        metrics: Test metrics, larger is better; the first is the one that is told while it runs.
        told: What the first metric is called.
        columns: Of the table.
        seeds: Seeds of the students where none are given.
        draw: Writes the picture from the runs to a path.
        keep_predictions: Whether each run keeps what it predicts on the test data, as ``predictions.pkl``.
    """

    name: str
    configs: Mapping[str, str]
    metrics: Sequence[str]
    told: str
    columns: Sequence[Column]
    seeds: Sequence[int]
    draw: Callable[[Finished, Path], None]
    keep_predictions: bool = False

    def plan(self, seeds: Sequence[int]) -> list[Run]:
        """Return all runs: one teacher, then every seed of every student.

        The first run of a recipe with exits trains the teacher's and keeps them, so the others wait for it.
        """
        teacher_row, *rows = self.configs
        teacher = Run(teacher_row, self._path(teacher_row), 0)
        first, rest = [], []
        for row in rows:
            path = self._path(row)
            model = read_config(path).model
            needs = (teacher,) if "teacher" in model else ()
            shares: tuple[Run, ...] = ()
            for seed in seeds:
                run = Run(row, path, seed, needs, shares)
                if seed == seeds[0] and _trains_exits(model):
                    first.append(run)
                    shares = (run,)
                else:
                    rest.append(run)
        # What needs no teacher can begin beside it; what others wait for comes next.
        return [teacher, *(run for run in rest if not run.needs), *first, *(run for run in rest if run.needs)]

    def _path(self, row: str) -> str:
        return str(config_root() / "quickstart" / f"{self.configs[row]}.py")


def run_config(run: Run, folder: Path, epochs: int | None = None) -> Config:
    """Return the config of a run in ``folder``, shortened or stretched to ``epochs``, schedules included."""
    config = read_config(run.config, work_dir=str(folder / run.name))
    factor = _stretch(config, epochs)
    config.randomness = {"seed": run.seed}
    config.default_hooks.checkpoint.interval = -1  # the last epoch alone
    if "teacher" in config.model:
        teacher = run.needs[0]
        length = epochs or read_config(teacher.config).train_cfg.max_epochs
        checkpoint = folder / teacher.name / f"epoch_{length}.pth"
        config.model.teacher.update(config=teacher.config, checkpoint=str(checkpoint))
        share_preparations(config, folder / "teachers")
        if factor < 1:  # a shortened teacher may know next to nothing
            config.default_hooks.teacher_check.min_score = 0.0
    return config


def _trains_exits(model: Any) -> bool:
    return "teacher_exits" in (model.get("recipe") or {})


def _stretch(config: Config, epochs: int | None) -> float:
    """Give a training another length, its learning rate schedules in proportion; return new length over old."""
    whole = config.train_cfg.max_epochs
    if epochs is None:
        return 1.0
    config.train_cfg.update(max_epochs=epochs, val_interval=min(config.train_cfg.val_interval, epochs))
    schedules = config.param_scheduler
    for schedule in schedules if isinstance(schedules, list) else [schedules]:
        if schedule.get("by_epoch", True):
            scaled = {key: round(schedule[key] * epochs / whole) for key in _LENGTHS if key in schedule}
            schedule.update({key: value if key == "begin" else max(1, value) for key, value in scaled.items()})
    return float(epochs / whole)


def mark(run: Run, epochs: int | None) -> str:
    """Return a hash of what a run's result depends on, what it waits for included; no matter in which folder."""
    return fingerprint(run_config(run, Path(), epochs), [mark(other, epochs) for other in run.needs + run.shares])


def work(run: Run, folder: Path, epochs: int | None, metrics: Sequence[str], predictions: bool, home: Path) -> Result:
    """Train and test one run; see :func:`kd_mm.apis.cells.train_and_test`."""
    result = train_and_test(run_config(run, folder, epochs), metrics, home, predictions)
    return {"row": run.row, "seed": run.seed, **result}


def run_quickstart(
    quickstart: Quickstart,
    work_dir: Path,
    seeds: Sequence[int] | None = None,
    epochs: int | None = None,
    processes: int = 2,
    fresh: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> str:
    """Run a whole comparison and write ``table.md``, ``table.csv``, ``results.json`` and ``quickstart.png``.

    Finished runs of an earlier call are kept; one that was cut off starts again.

    Args:
        quickstart: What is compared.
        work_dir: Where everything is written; the runs are in ``runs/``.
        seeds: Seeds of the students, default the quickstart's own.
        epochs: Length of each training, default as the configs say.
        processes: Trainings side by side, one thread each.
        fresh: Delete the runs of earlier calls first.
        say: Takes a line for each finished run.

    Returns:
        The table as text.

    Raises:
        ValueError: No seed, a seed twice, or fewer than one epoch or process.
        JobFailedError: A run failed.
    """
    seeds = quickstart.seeds if seeds is None else seeds
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"quickstart: give each seed once, got {list(seeds)}")
    if processes < 1 or (epochs is not None and epochs < 1):
        raise ValueError(f"quickstart: epochs and processes start at 1, got {epochs} and {processes}")
    folder = work_dir.absolute() / "runs"
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    runs = quickstart.plan(seeds)
    count = 0

    def report(job: Job, result: Result, kept: bool) -> None:
        nonlocal count
        count += 1
        what = f"{result['row']}, seed {result['seed']}"
        took = "kept from before" if kept else f"{result['seconds']:.1f} s"
        say(f"[{count:2d}/{len(runs)}] {what:<26} {quickstart.told} {result[quickstart.metrics[0]]:6.2f} %   {took}")

    jobs = [
        Job(
            run.name,
            functools.partial(work, run, folder, epochs, quickstart.metrics, quickstart.keep_predictions),
            mark(run, epochs),
            tuple(other.name for other in run.needs),
            tuple(other.name for other in run.shares),
        )
        for run in runs
    ]
    cells = list(run_jobs(jobs, folder, processes, report).values())
    table = write_tables(quickstart, cells, work_dir)
    quickstart.draw(Finished(runs, folder), work_dir / "quickstart.png")
    return table


def write_tables(quickstart: Quickstart, cells: Sequence[Result], work_dir: Path) -> str:
    """Write the table as Markdown, CSV and JSON; return it as text."""
    found = group(cells, "row")
    rows = {row: found[row] for row in quickstart.configs}
    prepared = {row: max(cell["preparation_seconds"] for cell in found[row]) for row in rows}
    longest = max(prepared, key=prepared.__getitem__)
    table = (
        f"{markdown(rows, quickstart.columns, 'network')}\n"
        "Mean ± standard deviation over the runs. Seconds are those of one training, validation included, on one\n"
        f"thread; the teacher's exits, trained once before {longest.rpartition(', ')[2]}, took "
        f"{prepared[longest]:.1f} s more.\n"
    )
    replace_file(work_dir / "table.md", table.encode())
    replace_file(work_dir / "table.csv", comma_separated(rows, quickstart.columns, "network").encode())
    replace_file(work_dir / "results.json", (json.dumps(cells, indent=2) + "\n").encode())
    return table
