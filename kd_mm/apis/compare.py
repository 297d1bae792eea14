"""Comparing configs fairly: the same seeds, the last epoch first, mean and spread in one table."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from kd_mm.apis.cells import Job, Result, fingerprint, run_jobs, train_and_test
from kd_mm.apis.run import read_config
from kd_mm.apis.tables import Column, comma_separated, group, markdown
from kd_mm.engine.atomic_files import replace_file

COSTS = (
    Column("params", "parameters", ".3f", 1e-6, " M"),
    Column("macs", "multiply-adds", ".1f", 1e-6, " M"),
    Column("seconds", "seconds", ".0f"),
)


def compare(
    configs: Sequence[str],
    work_dir: Path,
    seeds: Sequence[int] = (0, 1, 2),
    metrics: Sequence[str] = ("accuracy/top1",),
    options: dict[str, Any] | None = None,
    processes: int = 1,
    report: Callable[[str], object] = lambda line: None,
) -> str:
    """Train and test every config under every seed; write ``table.md``, ``table.csv`` and ``results.json``.

    Each run trains by its own config, with the seed set, and is tested with the plain config of its student. The
    teachers' exits are trained once and shared. Finished runs of an earlier call are kept.

    Args:
        configs: Paths of plain configs or distillations; each is a row under its file's name.
        work_dir: Where everything is written.
        seeds: Seeds of weights, data order and augmentation.
        metrics: The test metrics, larger is better; the first one chooses the best validation epoch.
        options: Overrides of config keys, for all configs alike.
        processes: Runs side by side, one thread each.
        report: Takes a line for each finished run.

    Returns:
        The table as Markdown.

    Raises:
        ValueError: No config, seed or metric, or one twice.
        JobFailedError: A run failed; what is finished is kept.
    """
    names = [Path(path.split("::")[-1]).stem for path in configs]
    for what, given in (("configs", names), ("seeds", list(seeds)), ("metrics", list(metrics))):
        if not given or len(set(given)) != len(given):
            raise ValueError(f"compare: give one or more {what}, each once; got {given}")
    jobs, rows = [], {}
    for path, name in zip(configs, names, strict=True):
        first: tuple[str, ...] = ()
        for seed in seeds:
            config = _run_config(path, seed, options, work_dir)
            work = functools.partial(_work, config.to_dict(), metrics)
            job = Job(f"{name}_seed{seed}", work, fingerprint(config, *metrics), first)
            if "teacher_exits" in (config.model.get("recipe") or {}):
                first = first or (job.name,)
            jobs.append(job)
            rows[job.name] = name

    def say(job: Job, result: Result, kept: bool) -> None:
        scores = ", ".join(f"{metric} {result[metric]:.2f}" for metric in metrics)
        report(f"{job.name}: {scores}, {result['seconds']:.0f} s{' (kept)' if kept else ''}")

    results = run_jobs(jobs, work_dir.absolute() / "runs", processes, say)
    cells = [{"row": rows[name], "run": name, **result} for name, result in results.items()]
    columns = table_columns(metrics)
    table = markdown(group(cells, "row"), columns, "config")
    replace_file(work_dir / "table.md", table.encode())
    replace_file(work_dir / "table.csv", comma_separated(group(cells, "row"), columns, "config").encode())
    replace_file(work_dir / "results.json", json.dumps(cells, indent=2).encode())
    return table


def _run_config(path: str, seed: int, options: dict[str, Any] | None, work_dir: Path) -> Config:
    config = read_config(path, options)
    config.randomness = {**(config.get("randomness") or {}), "seed": seed}
    config.pop("work_dir", None)
    checkpoint = config.setdefault("default_hooks", {}).setdefault("checkpoint", {"type": "CheckpointHook"})
    checkpoint.update(interval=-1, save_last=True)
    recipe = config.model.get("recipe") or {}
    if "teacher_exits" in recipe and not recipe["teacher_exits"].get("cache_dir"):
        recipe["teacher_exits"]["cache_dir"] = str(work_dir.absolute() / "teacher_exits")
    return config


def table_columns(metrics: Sequence[str]) -> list[Column]:
    """Return the columns of a comparison: each metric at the last epoch, then at the best one, then the costs."""
    last = [Column(metric, f"{metric}, last epoch", spread=True) for metric in metrics]
    best = [Column(f"best/{metric}", f"{metric}, best validation epoch", spread=True) for metric in metrics]
    return [*last, *best, *COSTS]


def _work(config: dict[str, Any], metrics: Sequence[str], home: Path) -> Result:
    return train_and_test(Config(config), metrics, home)
