"""Sweeps: rows of configs trained and tested under the same seeds, side by side, and one table of mean and spread."""

import copy
import functools
import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import HOOKS

from kd_mm.apis.result_table import write_results
from kd_mm.apis.rows import Sweep
from kd_mm.apis.sweep_run import check_row, run_row
from kd_mm.engine.jobs import Job, JobFailedError, Result, fingerprint, run_jobs, stored_results
from kd_mm.preparation import PrepareTeachersHook, share_preparations
from kd_mm.utils.config import load_config
from kd_mm.utils.suggest import join_first
from kd_mm.utils.tables import Cell

#: Ends of the keys that name files of weights, and the configs of their networks.
_FILES = ("checkpoint", "load_from", "config")


def compare(
    sweep: Sweep,
    work_dir: Path,
    processes: int = 1,
    report: Callable[[str], object] = print,
    devices: Sequence[str] = (),
) -> str:
    """Check every row, run a sweep, and write what :func:`~kd_mm.apis.result_table.write_results` does after each run.

    Args:
        sweep: What is trained and tested.
        work_dir: Where everything is written; the runs are in ``runs/``.
        processes: Runs side by side on each device, one thread each.
        report: Takes a line for each finished run.
        devices: ``"cuda:0"`` ... or ``"cpu"``; each run sees one of them. By default all see all.

    Returns:
        The table as Markdown.

    Raises:
        ValueError: There is no such device, or a row cannot start; then none is trained.
        JobFailedError: Runs failed; the others are finished, and the table names those that failed.
    """
    if work_dir.is_file():
        raise ValueError(f"work dir {work_dir} is a file, not a folder")
    finished: list[Cell] = []
    failed: list[Cell] = []
    jobs = plan_jobs(sweep, work_dir.absolute())
    check_rows(sweep, jobs, work_dir.absolute(), processes, devices)

    def describe(job: Job, cell: Result, stored: bool) -> None:
        scores = ", ".join(f"{metric} {cell[metric]:.2f}" for metric in sweep.metrics)
        report(f"{cell['run']}: {scores}, {cell['seconds']:.0f} s{' (kept)' if stored else ''}")
        finished.append(cell)
        write_results(sweep, finished, work_dir, failed)

    def describe_failure(job: Job, why: str) -> None:
        report(f"{job.name}: failed: {why}")
        row, seed = _runs(sweep)[job.name]
        failed.append({"row": row, "seed": seed, "run": job.name, "failed": why})
        write_results(sweep, finished, work_dir, failed)

    try:
        run_jobs(jobs, work_dir.absolute() / "runs", processes, describe, devices, describe_failure)
    finally:
        table = write_results(sweep, finished, work_dir, failed, picture=True) if finished else ""
    return table


def merge(sweep: Sweep, work_dir: Path) -> str:
    """Write the same files as :func:`compare` from the runs that are finished, without training any.

    Raises:
        ValueError: None is finished.
    """
    jobs = plan_jobs(sweep, work_dir.absolute())
    finished = list(stored_results(jobs, work_dir.absolute() / "runs").values())
    if not finished:
        raise ValueError(f"no run of this sweep is finished in {work_dir / 'runs'}")
    return write_results(sweep, finished, work_dir, picture=True)


def check_rows(sweep: Sweep, jobs: Sequence[Job], work_dir: Path, processes: int, devices: Sequence[str] = ()) -> None:
    """Start one run of each row that is not finished, and end it before anything is prepared or trained.

    A teacher that the sweep has yet to train is replaced by one of random weights. A row that has passed is not checked
    again. What a check leaves is in ``checks/``.

    Raises:
        ValueError: A finished run would be replaced, as its row has changed; or rows that cannot start, each with the
            reason.
    """
    open_jobs = {job.name: job for job in jobs if job.name not in stored_results(jobs, work_dir / "runs")}
    other = [name for name in open_jobs if (work_dir / "runs" / name / "result.json").is_file()]
    if other:
        raise ValueError(
            f"{work_dir / 'runs'} holds finished runs of other configs, weights or metrics under these names: "
            f"{join_first(other)}; give another --work-dir, or delete their folders"
        )
    checks: dict[str, Job] = {}
    for run, (name, seed) in _runs(sweep).items():
        if run in open_jobs and name not in checks:
            config = _startable(_run_config(sweep, name, seed, work_dir), sweep, name, work_dir / "checks")
            work = functools.partial(check_row, config.to_dict(), tuple(sweep.metrics))
            checks[name] = Job(run, work, open_jobs[run].fingerprint)
    try:
        run_jobs(list(checks.values()), work_dir / "checks", processes, lambda *_: None, devices)
    except JobFailedError as error:
        wrong = "; ".join(f"row {_runs(sweep)[run][0]}: {why}" for run, why in error.failures.items())
        raise ValueError(f"nothing was trained: {wrong}") from error


def _startable(config: Config, sweep: Sweep, name: str, folder: Path) -> Config:
    hooks, teacher_row = config.get("default_hooks") or {}, sweep.rows[name].teacher_row
    for key, hook in list(hooks.items()):
        if hook and HOOKS.get(str(hook.get("type"))) is PrepareTeachersHook:
            hooks.pop(key)
    if teacher_row is not None and not Path(config.model.teacher.checkpoint).is_file():
        file = folder / f"{_teacher_run(sweep, teacher_row)}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        sweep.rows[teacher_row].config.dump(file)
        config.model.teacher.update(config=str(file), checkpoint=None, random_weights=True)
        exits = config.model.recipe.get("teacher_exits") or {}
        config.model.recipe.teacher_exits = {**exits, "mode": "pretrained"}  # there are none to read yet
        hooks.pop("teacher_check", None)
    return config


def plan_jobs(sweep: Sweep, work_dir: Path, save_predictions: bool = False) -> list[Job]:
    """Return the runs of a sweep.

    The fingerprint of a run has the content of a teacher's checkpoint and of weights to start from, not their paths, so
    that finished runs count in a moved folder and not with a teacher that was trained anew.

    What the runs prepare on their teachers is in ``teachers``: the first that needs a result computes it, the others
    wait for its file.

    Raises:
        ValueError: A row is not trained by epochs.
    """
    jobs: dict[str, Job] = {}
    content = functools.cache(_content)
    rows = {
        name: replace(row, config=Config(_by_content(row.config.to_dict(), content)))
        for name, row in sweep.rows.items()
    }
    described = replace(sweep, rows=rows)
    for run, (name, seed) in _runs(sweep).items():
        row = sweep.rows[name]
        if not isinstance((row.config.get("train_cfg") or {}).get("max_epochs"), int):
            raise ValueError(f"row {name}: a sweep trains by epochs; its train_cfg has no max_epochs=N")
        config = _run_config(sweep, name, seed, work_dir)
        needs = (_teacher_run(sweep, row.teacher_row),) if row.teacher_row is not None else ()
        # The same in whichever folder.
        depends_on = [jobs[other].fingerprint for other in needs]
        digest = fingerprint(_run_config(described, name, seed, Path()), sweep.metrics, depends_on)
        work = functools.partial(run_row, config.to_dict(), name, seed, tuple(sweep.metrics), save_predictions)
        jobs[run] = Job(run, work, digest, needs)
    return list(jobs.values())


def _by_content(part: Any, content: Callable[[Path], Any]) -> Any:
    """Return a part of a config with the content of files of weights, and of their configs, in place of the paths."""
    if isinstance(part, list | tuple):
        return [_by_content(item, content) for item in part]
    if not isinstance(part, dict):
        return part
    return {
        key: content(Path(value))
        if isinstance(value, str) and str(key).endswith(_FILES) and Path(value).is_file()
        else _by_content(value, content)
        for key, value in part.items()
    }


def _content(file: Path) -> Any:
    if file.suffix in (".py", ".json", ".yml", ".yaml"):
        return _by_content(load_config(str(file)).get("model"), _content)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _run_config(sweep: Sweep, name: str, seed: int, work_dir: Path) -> Config:
    row = sweep.rows[name]
    config = copy.deepcopy(row.config)
    config.randomness = {**(config.get("randomness") or {}), "seed": seed}
    config.pop("work_dir", None)
    hooks = config.get("default_hooks") or {}
    checkpoint = dict(hooks.get("checkpoint") or {"type": "CheckpointHook"})
    checkpoint |= {"interval": math.ceil(config.train_cfg.max_epochs / 10), "save_last": True, "max_keep_ckpts": 2}
    config.default_hooks = {**hooks, "checkpoint": checkpoint}
    share_preparations(config, work_dir / "teachers")
    if row.teacher_row is not None:
        home = work_dir / "runs" / _teacher_run(sweep, row.teacher_row)
        epochs = sweep.rows[row.teacher_row].config.train_cfg.max_epochs
        trained = {"config": str(home / "config.py"), "checkpoint": str(home / f"epoch_{epochs}.pth")}
        config.model.teacher = {**(config.model.get("teacher") or {}), **trained}
    return config


def _teacher_run(sweep: Sweep, row: str) -> str:
    return _run_name(row, (sweep.rows[row].seeds or sweep.seeds)[0])


def _run_name(row: str, seed: int) -> str:
    """Return the name of a run's folder: the row's name without what file systems and shells dislike."""
    return f"{re.sub(r'[^A-Za-z0-9_.=+-]+', '-', row)}_seed{seed}"


def _runs(sweep: Sweep) -> dict[str, tuple[str, int]]:
    runs = [(name, seed) for name, row in sweep.rows.items() for seed in row.seeds or sweep.seeds]
    return {_run_name(*run): run for run in runs}
