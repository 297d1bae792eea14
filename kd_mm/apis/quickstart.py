"""The quickstart: a teacher, and a student alone, with KD and with MTKD-SSR, on digits; one table and one picture."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from kd_mm.apis.cells import Job, Result, fingerprint, run_jobs, train_and_test
from kd_mm.apis.compose import config_root
from kd_mm.apis.plots import (
    REFERENCE,
    draw_curve,
    draw_losses,
    draw_student_exits,
    draw_teacher_exits,
    legend_below,
    new_figure,
    read_scalars,
    save_png,
)
from kd_mm.apis.run import read_config
from kd_mm.apis.tables import Column, comma_separated, group, markdown
from kd_mm.hooks.atomic_files import replace_file

METRIC = "accuracy/top1"
#: Config by row of the table.
ROWS = {
    "teacher": "teacher_digits",
    "student alone": "student_digits",
    "student, KD": "kd_teacher_student_digits",
    "student, MTKD-SSR": "mtkd-ssr_teacher_student_digits",
}
COLUMNS = (
    Column("test", "test accuracy (%), last epoch", spread=True),
    Column("test_of_best", "at best validation epoch", spread=True),
    Column("params", "parameters", ".1f", 1e-3, " k"),
    Column("macs", "multiply-adds", ".2f", 1e-6, " M"),
    Column("seconds", "seconds", ".1f"),
)
TERMS = {
    "loss_student": "task: the student's own answer against the label",
    "aux": "aux: each exit against the label",
    "scd": "scd: stage channels, student against teacher",
    "srd": "srd: stage answers, student against teacher",
    "review": "review: each exit against the student's next deeper answer",
}


@dataclass(frozen=True)
class Run:
    """One cell of the table.

    Attributes:
        row: Its row.
        seed: Seed of its weights, data order and augmentation.
        needs: Runs that have to be finished before.
    """

    row: str
    seed: int
    needs: tuple[Run, ...] = ()

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{ROWS[self.row]}_seed{self.seed}"


TEACHER = Run("teacher", 0)


def plan(seeds: Sequence[int]) -> list[Run]:
    """Return all runs: one teacher, then every seed of every student.

    The first MTKD-SSR run trains the teacher's exits and keeps them, so the others wait for it.
    """
    alone = [Run("student alone", seed) for seed in seeds]
    kd = [Run("student, KD", seed, (TEACHER,)) for seed in seeds]
    first = Run("student, MTKD-SSR", seeds[0], (TEACHER,))
    rest = [Run("student, MTKD-SSR", seed, (TEACHER, first)) for seed in seeds[1:]]
    return [TEACHER, *alone, first, *kd, *rest]


def run_config(run: Run, folder: Path, epochs: int | None = None) -> Config:
    """Return the config of a run in ``folder``, shortened or stretched to ``epochs``, schedules included."""
    config = read_config(config_path(run.row), work_dir=str(folder / run.name))
    whole = config.train_cfg.max_epochs
    epochs = epochs or whole
    config.merge_from_dict({"train_cfg.max_epochs": epochs, "param_scheduler.T_max": epochs})
    config.randomness = {"seed": run.seed}
    config.default_hooks.checkpoint.interval = -1  # the last epoch alone
    if str(config.model.type).endswith("Distiller"):
        checkpoint = folder / TEACHER.name / f"epoch_{epochs}.pth"
        config.model.teacher.update(config=config_path("teacher"), checkpoint=str(checkpoint))
        _scale_recipe(config.model.recipe, epochs / whole, folder / "teacher_exits")
        if epochs < whole:  # a shortened teacher may know next to nothing
            config.default_hooks.teacher_check.min_score = 0.0
    return config


def config_path(row: str) -> str:
    """Return the path of the shipped config of a row."""
    return str(config_root() / "quickstart" / f"{ROWS[row]}.py")


def _scale_recipe(recipe: Any, factor: float, exits_folder: Path) -> None:
    if "teacher_exits" in recipe:
        exits = recipe.teacher_exits
        exits.epochs = max(1, round(exits.epochs * factor))
        exits.milestones = [max(1, round(epoch * factor)) for epoch in exits.milestones]
        exits.cache_dir = str(exits_folder)
    for loss in recipe.losses.values():
        if loss.get("schedule"):
            loss.schedule.epochs = round(loss.schedule.epochs * factor)


def mark(run: Run, epochs: int | None) -> str:
    """Return a hash of what a run's result depends on, the runs that it needs included; no matter in which folder."""
    return fingerprint(run_config(run, Path(), epochs), [mark(other, epochs) for other in run.needs])


def work(run: Run, folder: Path, epochs: int | None, home: Path) -> Result:
    """Train and test one run; see :func:`kd_mm.apis.cells.train_and_test`."""
    plain = config_path("teacher" if run.row == "teacher" else "student alone")
    result = train_and_test(run_config(run, folder, epochs), plain, METRIC, home)
    return {"row": run.row, "seed": run.seed, **result}


def quickstart(
    work_dir: Path,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    epochs: int | None = None,
    processes: int = 2,
    fresh: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> str:
    """Run the whole comparison and write ``table.md``, ``table.csv``, ``results.json`` and ``quickstart.png``.

    Finished runs of an earlier call are kept; one that was cut off starts again.

    Args:
        work_dir: Where everything is written; the runs are in ``runs/``.
        seeds: Seeds of the students.
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
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"quickstart: give each seed once, got {list(seeds)}")
    if processes < 1 or (epochs is not None and epochs < 1):
        raise ValueError(f"quickstart: epochs and processes start at 1, got {epochs} and {processes}")
    folder = work_dir.absolute() / "runs"
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    runs = plan(seeds)
    count = 0

    def report(job: Job, result: Result, kept: bool) -> None:
        nonlocal count
        count += 1
        what = f"{result['row']}, seed {result['seed']}"
        took = "kept from before" if kept else f"{result['seconds']:.1f} s"
        say(f"[{count:2d}/{len(runs)}] {what:<26} test accuracy {result['test']:6.2f} %   {took}")

    jobs = [
        Job(
            run.name,
            functools.partial(work, run, folder, epochs),
            mark(run, epochs),
            tuple(other.name for other in run.needs),
        )
        for run in runs
    ]
    cells = list(run_jobs(jobs, folder, processes, report).values())
    table = write_tables(cells, work_dir)
    draw(runs, folder, work_dir / "quickstart.png")
    return table


def write_tables(cells: Sequence[Result], work_dir: Path) -> str:
    """Write the table as Markdown, CSV and JSON; return it as text."""
    found = group(cells, "row")
    rows = {row: found[row] for row in ROWS}
    prepared = max(cell["preparation_seconds"] for cell in rows["student, MTKD-SSR"])
    table = (
        f"{markdown(rows, COLUMNS, 'network')}\n"
        "Mean ± standard deviation over the runs. Seconds are those of one training, validation included, on one\n"
        f"thread; the teacher's exits, trained once before MTKD-SSR, took {prepared:.1f} s more.\n"
    )
    replace_file(work_dir / "table.md", table.encode())
    replace_file(work_dir / "table.csv", comma_separated(rows, COLUMNS, "network").encode())
    replace_file(work_dir / "results.json", (json.dumps(cells, indent=2) + "\n").encode())
    return table


def draw(runs: Sequence[Run], folder: Path, path: Path) -> None:
    """Draw loss terms and exits of the MTKD-SSR runs, with the student alone beside them."""
    logs = {row: [read_scalars(folder / run.name) for run in runs if run.row == row] for row in ROWS}
    reviewed = logs["student, MTKD-SSR"]
    seeds = f"mean and range of {len(reviewed)} seeds" if len(reviewed) > 1 else "one seed"
    figure, (losses, exits) = new_figure(2, "MTKD-SSR on handwritten digits: the review at work")
    draw_losses(losses, reviewed, TERMS)
    losses.set_title(f"Loss terms, unweighted ({seeds})", fontsize=11)
    draw_student_exits(exits, reviewed)
    draw_curve(exits, logs["student alone"], METRIC, "student trained alone", color=REFERENCE, linewidth=1.6)
    draw_teacher_exits(exits, reviewed)
    exits.set_title(f"Accuracy of each exit ({seeds})", fontsize=11)
    legend_below(losses, 1)
    legend_below(exits, 2)
    save_png(figure, path)
