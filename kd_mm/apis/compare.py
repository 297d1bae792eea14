"""Comparing configs fairly: the same seeds, the last epoch first, mean and spread in one table."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from kd_mm.apis.cells import Job, Result, fingerprint, run_jobs, share_preparations, train_and_test
from kd_mm.apis.plots import draw_comparison, save_png
from kd_mm.apis.tables import Column, comma_separated, group, markdown
from kd_mm.engine.atomic_files import replace_file
from kd_mm.losses import GPACAttentionLoss
from kd_mm.losses.mag import CodeReader
from kd_mm.registry import MODELS

COSTS = (
    Column("params", "parameters", ".3f", 1e-6, " M"),
    Column("macs", "multiply-adds", ".1f", 1e-6, " M"),
    Column("seconds", "seconds", ".0f"),
)


def compare(
    rows: Mapping[str, Config],
    work_dir: Path,
    seeds: Sequence[int] = (0, 1, 2),
    metrics: Sequence[str] = ("accuracy/top1",),
    processes: int = 1,
    report: Callable[[str], object] = lambda line: None,
) -> str:
    """Train and test every config under every seed; write ``table.md``, ``table.csv``, ``table.png``, ``results.json``.

    Each run trains by its own config, with the seed set, and is tested with the plain config of its student. What is
    prepared on the teachers (exits, codes, probes) is prepared once and shared. Finished runs of an earlier call are
    kept.

    Args:
        rows: Plain configs or distillations by the name of their row (:func:`kd_mm.apis.rows.read_rows`).
        work_dir: Where everything is written.
        seeds: Seeds of weights, data order and augmentation.
        metrics: The test metrics, larger is better; the first one chooses the best validation epoch.
        processes: Runs side by side, one thread each.
        report: Takes a line for each finished run.

    Returns:
        The table as Markdown.

    Raises:
        ValueError: No config, seed or metric, or one twice.
        JobFailedError: A run failed; what is finished is kept.
    """
    for what, given in (("configs", list(rows)), ("seeds", list(seeds)), ("metrics", list(metrics))):
        if not given or len(set(given)) != len(given):
            raise ValueError(f"compare: give one or more {what}, each once; got {given}")
    jobs, row_of = plan(rows, work_dir, seeds, metrics)

    def say(job: Job, result: Result, kept: bool) -> None:
        scores = ", ".join(f"{metric} {result[metric]:.2f}" for metric in metrics)
        report(f"{job.name}: {scores}, {result['seconds']:.0f} s{' (kept)' if kept else ''}")

    results = run_jobs(jobs, work_dir.absolute() / "runs", processes, say)
    cells = [{"row": row_of[name], "run": name, **result} for name, result in results.items()]
    columns = table_columns(metrics)
    table = markdown(group(cells, "row"), columns, "config")
    replace_file(work_dir / "table.md", table.encode())
    replace_file(work_dir / "table.csv", comma_separated(group(cells, "row"), columns, "config").encode())
    scores = {row: [cell[metrics[0]] for cell in runs] for row, runs in group(cells, "row").items()}
    save_png(draw_comparison(scores, metrics[0]), work_dir / "table.png")
    replace_file(work_dir / "results.json", json.dumps(cells, indent=2).encode())
    return table


def plan(
    rows: Mapping[str, Config], work_dir: Path, seeds: Sequence[int], metrics: Sequence[str]
) -> tuple[list[Job], dict[str, str]]:
    """Return the runs of a comparison and the row of each run.

    The first run that needs something prepared on the teachers makes it; the others that need the same wait
    until it is there.
    """
    jobs, row_of = [], {}
    first: dict[str, str] = {}
    for name, row in rows.items():
        prepared = _prepared(row)
        for seed in seeds:
            config = _run_config(row, seed, work_dir)
            work = functools.partial(_work, config.to_dict(), metrics)
            run = f"{name}_seed{seed}"
            shares = tuple(dict.fromkeys(first[what] for what in prepared if what in first))
            first = {**dict.fromkeys(prepared, run), **first}
            jobs.append(Job(run, work, fingerprint(config, *metrics), shares=shares))
            row_of[run] = name
    return jobs, row_of


def _run_config(row: Config, seed: int, work_dir: Path) -> Config:
    config = copy.deepcopy(row)
    config.randomness = {**(config.get("randomness") or {}), "seed": seed}
    config.pop("work_dir", None)
    checkpoint = config.setdefault("default_hooks", {}).setdefault("checkpoint", {"type": "CheckpointHook"})
    checkpoint.update(interval=-1, save_last=True)
    share_preparations(config, work_dir.absolute() / "teachers")
    return config


def _prepared(config: Config) -> list[str]:
    """Return a word for each thing that is prepared on the teachers; rows with the same word may share it."""
    recipe = config.model.get("recipe") or {}
    if not recipe.get("losses"):
        return []
    teachers = config.model.get("teacher")
    words = []
    if "teacher_exits" in recipe:
        words.append(fingerprint(teachers, recipe.get("exits"), recipe["teacher_exits"]))
    kinds = [MODELS.get(loss["type"]) for loss in recipe["losses"].values() if loss]
    for kind in (CodeReader, GPACAttentionLoss):
        if any(isinstance(found, type) and issubclass(found, kind) for found in kinds):
            words.append(fingerprint(teachers, kind.__name__))
    return words


def table_columns(metrics: Sequence[str]) -> list[Column]:
    """Return the columns of a comparison: each metric at the last epoch, then at the best one, then the costs."""
    last = [Column(metric, f"{metric}, last epoch", spread=True) for metric in metrics]
    best = [Column(f"best/{metric}", f"{metric}, best validation epoch", spread=True) for metric in metrics]
    return [*last, *best, *COSTS]


def _work(config: dict[str, Any], metrics: Sequence[str], home: Path) -> Result:
    if config.get("custom_imports"):  # a spawned worker has not read the config's file
        import_modules_from_strings(**config["custom_imports"])
    return train_and_test(Config(config), metrics, home)
