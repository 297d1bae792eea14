"""Sweeps: rows of configs trained and tested under the same seeds, side by side, and one table of mean and spread."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from kd_mm.apis.checks import MetricNamesHook, require_metric
from kd_mm.apis.evaluate import evaluate
from kd_mm.apis.recipes import is_distillation
from kd_mm.apis.rows import Row, Sweep
from kd_mm.apis.runner import build_runner
from kd_mm.apis.stages import config_input_size
from kd_mm.apis.tables import Cell, Column, draw_comparison, group, write_tables
from kd_mm.datasets.identity_sampler import check_identity_batches
from kd_mm.engine.jobs import Job, Result, fingerprint, run_jobs
from kd_mm.hooks.report import complexity
from kd_mm.preparation import share_preparations
from kd_mm.utils.atomic_files import replace_file
from kd_mm.utils.checkpoint import read_checkpoint
from kd_mm.utils.figures import to_png

COST_COLUMNS = (
    Column("params", "parameters", ".3f", 1e-6, " M"),
    Column("macs", "multiply-adds", ".1f", 1e-6, " M"),
    Column("seconds", "seconds", ".0f"),
)


def compare(sweep: Sweep, work_dir: Path, processes: int = 1, report: Callable[[str], object] = print) -> str:
    """Run a sweep; write ``table.md``, ``table.csv``, ``table.png`` and ``results.json``.

    Args:
        sweep: What is trained and tested.
        work_dir: Where everything is written; the runs are in ``runs/``.
        processes: Runs side by side, one thread each.
        report: Takes a line for each finished run.

    Returns:
        The table as Markdown.

    Raises:
        JobFailedError: A run failed; what is finished is kept.
    """

    def describe(cell: Cell, kept: bool) -> None:
        scores = ", ".join(f"{metric} {cell[metric]:.2f}" for metric in sweep.metrics)
        report(f"{cell['run']}: {scores}, {cell['seconds']:.0f} s{' (kept)' if kept else ''}")

    cells = run_sweep(sweep, work_dir, processes, describe)
    rows = group(cells, "row")
    table = write_tables(rows, table_columns(sweep.metrics), "config", work_dir)
    scores = {row: [cell[sweep.metrics[0]] for cell in runs] for row, runs in rows.items()}
    replace_file(work_dir / "table.png", to_png(draw_comparison(scores, sweep.metrics[0])))
    return table


def table_columns(metrics: Sequence[str]) -> list[Column]:
    """Return the columns of a comparison: each metric at the last epoch, then at the best one, then the costs."""
    last = [Column(metric, f"{metric}, last epoch", spread=True) for metric in metrics]
    best = [Column(f"best/{metric}", f"{metric}, best validation epoch", spread=True) for metric in metrics]
    return [*last, *best, *COST_COLUMNS]


def run_sweep(
    sweep: Sweep,
    work_dir: Path,
    processes: int,
    report: Callable[[Cell, bool], object],
    save_predictions: bool = False,
) -> list[Result]:
    """Train and test every row under every seed.

    Each run trains by its own config, with the seed set, and is tested with the plain config of its student. What is
    prepared on the teachers (exits, codes, probes) is prepared once and shared. Finished runs of an earlier call are
    kept.

    Args:
        sweep: What is trained and tested.
        work_dir: Where everything is written; the runs are in ``runs/<row>_seed<seed>``.
        processes: Runs side by side, one thread each.
        report: Takes the result of each finished run and whether it was kept from an earlier call.
        save_predictions: Keep what the last epoch predicts on the test data, as ``predictions.pkl``.

    Returns:
        Results of :func:`train_and_test`, each with ``row``, ``seed`` and ``run``, the name of its folder.

    Raises:
        JobFailedError: A run failed; what is finished is kept.
    """
    jobs = plan_jobs(sweep, work_dir.absolute(), save_predictions)
    results = run_jobs(jobs, work_dir.absolute() / "runs", processes, lambda _, result, kept: report(result, kept))
    return list(results.values())


def plan_jobs(sweep: Sweep, work_dir: Path, save_predictions: bool = False) -> list[Job]:
    """Return the runs of a sweep.

    What the runs prepare on their teachers is in ``teachers``: the first that needs a result computes it, the others
    wait for its file.
    """
    jobs: dict[str, Job] = {}
    for name, row in sweep.rows.items():
        for seed in row.seeds or sweep.seeds:
            config = _run_config(sweep, row, seed, work_dir)
            needs = (_teacher_run(sweep, row.teacher_row),) if row.teacher_row is not None else ()
            run = f"{name}_seed{seed}"
            # The same in whichever folder.
            depends_on = [jobs[other].fingerprint for other in needs]
            digest = fingerprint(_run_config(sweep, row, seed, Path()), sweep.metrics, depends_on)
            work = functools.partial(
                _train_and_test_run, config.to_dict(), name, seed, tuple(sweep.metrics), save_predictions
            )
            jobs[run] = Job(run, work, digest, needs)
    return list(jobs.values())


def _run_config(sweep: Sweep, row: Row, seed: int, work_dir: Path) -> Config:
    config = copy.deepcopy(row.config)
    config.randomness = {**(config.get("randomness") or {}), "seed": seed}
    config.pop("work_dir", None)
    checkpoint = config.setdefault("default_hooks", {}).setdefault("checkpoint", {"type": "CheckpointHook"})
    checkpoint.update(interval=-1, save_last=True)
    share_preparations(config, work_dir / "teachers")
    if row.teacher_row is not None:
        home = work_dir / "runs" / _teacher_run(sweep, row.teacher_row)
        epochs = sweep.rows[row.teacher_row].config.train_cfg.max_epochs
        trained = {"config": str(home / "config.py"), "checkpoint": str(home / f"epoch_{epochs}.pth")}
        config.model.teacher = {**(config.model.get("teacher") or {}), **trained}
    return config


def _teacher_run(sweep: Sweep, row: str) -> str:
    return f"{row}_seed{(sweep.rows[row].seeds or sweep.seeds)[0]}"


def _train_and_test_run(
    config: dict[str, Any], row: str, seed: int, metrics: Sequence[str], save_predictions: bool, home: Path
) -> Result:
    if config.get("custom_imports"):  # a spawned process has not read the config's file
        import_modules_from_strings(**config["custom_imports"])
    result = train_and_test(Config(config), metrics, home, save_predictions)
    return {"row": row, "seed": seed, "run": home.name, **result}


def train_and_test(config: Config, metrics: Sequence[str], home: Path, save_predictions: bool = False) -> Result:
    """Train a config and evaluate its student on the test data.

    Args:
        config: A plain config or a distillation; trained by epochs. ``<home>/config.py`` keeps it.
        metrics: Names of metrics, larger is better; of epochs that are equally good by the first metric, the first
            counts as the best.
        home: The work dir.
        save_predictions: Keep what the last epoch predicts on the test data as ``<home>/predictions.pkl``.

    Returns:
        Each metric under its name (after the last epoch) and as ``best/<name>`` (of the best epoch on the validation
        data), ``params`` and ``macs`` (multiply-adds of one image) of the network alone, ``seconds`` of training with
        validation, and ``preparation_seconds`` before it.

    Raises:
        ValueError: The evaluation gives no such metric, or the batches are not those of their sampler.
    """
    check_identity_batches(config)
    # The engine distinguishes the runners of one process by this name.
    config.experiment_name, config.work_dir = f"{home.name}_{time.time_ns()}", str(home)
    written = home / "config.py"
    config.dump(written)
    began, start, best = time.perf_counter(), _TrainingStartHook(), _BestWeightsHook(metrics[0])
    runner = build_runner(config, tested=True)
    same_evaluator = config.get("test_evaluator") == config.get("val_evaluator")
    for hook in (start, best, MetricNamesHook(metrics if same_evaluator else metrics[:1])):
        runner.register_hook(hook)
    runner.train()
    seconds = time.perf_counter() - start.time
    size = config_input_size(config) or runner.train_dataloader.dataset[0]["inputs"].shape[-2:]
    network = runner.model.student if is_distillation(config) else runner.model
    params, macs = complexity(network, (size[0], size[1]))
    torch.save({"state_dict": best.weights, "meta": {"epoch": best.epoch}}, home / "best.pth")

    def test(part: str, checkpoint: Path, out: str | None = None) -> dict[str, float]:
        options = {"experiment_name": f"{home.name}_{part}_{time.time_ns()}"}
        found = evaluate(str(written), str(checkpoint), options, str(home / part), out)
        return {name: require_metric(name, found, "the test") for name in metrics}

    last = home / f"epoch_{runner.max_epochs}.pth"
    scores = test("test", last, str(home / "predictions.pkl") if save_predictions else None)
    # The last epoch is often the best.
    best_scores = scores if best.has_weights_of(last) else test("test_of_best", home / "best.pth")
    scores = {**scores, **{f"best/{name}": score for name, score in best_scores.items()}}
    costs = {"params": params, "macs": macs, "seconds": seconds, "preparation_seconds": start.time - began}
    return {**scores, **costs}


class _TrainingStartHook(Hook):
    """Notes when everything is prepared and the training begins."""

    priority = "VERY_LOW"
    time = 0.0

    def before_train(self, runner: Runner) -> None:
        self.time = time.perf_counter()


class _BestWeightsHook(Hook):
    """Keeps the weights of the best epoch on the validation data in memory; a checkpoint each time would take longer
    than the epoch of a small network."""

    priority = "LOW"

    def __init__(self, metric: str) -> None:
        self.metric, self.score, self.epoch = metric, float("-inf"), 0
        self.weights: dict[str, torch.Tensor] = {}

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        score = require_metric(self.metric, metrics or {}, "the validation")
        if score > self.score:
            self.score, self.epoch = score, runner.epoch
            self.weights = {key: value.detach().cpu().clone() for key, value in runner.model.state_dict().items()}

    def has_weights_of(self, checkpoint: Path) -> bool:
        """Return whether a checkpoint holds the same weights."""
        stored = read_checkpoint(str(checkpoint))["state_dict"]
        return self.weights.keys() == stored.keys() and all(
            torch.equal(value, stored[key]) for key, value in self.weights.items()
        )
