"""Sweeps: rows of configs trained and tested under the same seeds, side by side, and one table of mean and spread."""

from __future__ import annotations

import copy
import functools
import math
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
from kd_mm.apis.rows import Row, Sweep
from kd_mm.apis.runner import build_runner
from kd_mm.apis.stages import config_input_size
from kd_mm.datasets.identity_sampler import check_identity_batches
from kd_mm.engine.jobs import Job, Result, fingerprint, run_jobs, stored_results
from kd_mm.hooks.report import complexity
from kd_mm.preparation import share_preparations
from kd_mm.utils.atomic_files import replace_file
from kd_mm.utils.checkpoint import read_checkpoint
from kd_mm.utils.config import is_distillation
from kd_mm.utils.figures import to_png
from kd_mm.utils.tables import Cell, Column, draw_comparison, group, write_tables

COST_COLUMNS = (
    Column("params", "parameters", ".3f", 1e-6, " M"),
    Column("macs", "multiply-adds", ".1f", 1e-6, " M"),
    Column("seconds", "seconds", ".0f"),
)


def compare(
    sweep: Sweep,
    work_dir: Path,
    processes: int = 1,
    report: Callable[[str], object] = print,
    devices: Sequence[str] = (),
) -> str:
    """Run a sweep; write ``table.md``, ``table.csv``, ``results.json`` (after each run) and ``table.png``.

    Args:
        sweep: What is trained and tested.
        work_dir: Where everything is written; the runs are in ``runs/``.
        processes: Runs side by side on each device, one thread each.
        report: Takes a line for each finished run.
        devices: ``"cuda:0"`` ... or ``"cpu"``; each run sees one of them. By default all see all.

    Returns:
        The table as Markdown.

    Raises:
        ValueError: There is no such device.
        JobFailedError: A run failed; what is finished is kept.
    """
    finished: list[Cell] = []

    def describe(cell: Cell, kept: bool) -> None:
        scores = ", ".join(f"{metric} {cell[metric]:.2f}" for metric in sweep.metrics)
        report(f"{cell['run']}: {scores}, {cell['seconds']:.0f} s{' (kept)' if kept else ''}")
        finished.append(cell)
        _write(sweep, finished, work_dir)

    run_sweep(sweep, work_dir, processes, describe, devices=devices)
    return _write(sweep, finished, work_dir, picture=True)


def merge(sweep: Sweep, work_dir: Path) -> str:
    """Write the same files as :func:`compare` from the runs that are finished, without training any.

    Raises:
        ValueError: None is finished.
    """
    jobs = plan_jobs(sweep, work_dir.absolute())
    finished = list(stored_results(jobs, work_dir.absolute() / "runs").values())
    if not finished:
        raise ValueError(f"no run of this sweep is finished in {work_dir / 'runs'}")
    return _write(sweep, finished, work_dir, picture=True)


def _write(sweep: Sweep, finished: Sequence[Cell], work_dir: Path, picture: bool = False) -> str:
    order = list(sweep.rows)
    rows = group(sorted(finished, key=lambda cell: (order.index(cell["row"]), cell["seed"])), "row")
    on_test = all(row.config.get("val_dataloader") == row.config.test_dataloader for row in sweep.rows.values())
    table = write_tables(rows, table_columns(sweep.metrics, on_test), "config", work_dir)
    if picture:
        scores = {row: [cell[sweep.metrics[0]] for cell in runs] for row, runs in rows.items()}
        replace_file(work_dir / "table.png", to_png(draw_comparison(scores, sweep.metrics[0])))
    return table


def table_columns(metrics: Sequence[str], on_test: bool = False) -> list[Column]:
    """Return the columns of a comparison: each metric at the last epoch, then at the best one, then the costs.

    Args:
        metrics: Their names.
        on_test: Whether the best epoch is that on the test data, as the validation data are the same.
    """
    kind = "best epoch on the test data" if on_test else "best validation epoch"
    last = [Column(metric, f"{metric}, last epoch", spread=True) for metric in metrics]
    best = [Column(f"best/{metric}", f"{metric}, {kind}", spread=True) for metric in metrics]
    return [*last, *best, *COST_COLUMNS]


def run_sweep(
    sweep: Sweep,
    work_dir: Path,
    processes: int,
    report: Callable[[Cell, bool], object],
    save_predictions: bool = False,
    devices: Sequence[str] = (),
) -> list[Result]:
    """Train and test every row under every seed.

    Each run trains by its own config, with the seed set, and is tested with the plain config of its student. What is
    prepared on the teachers (exits, codes, probes) is prepared once and shared. Finished runs of an earlier call are
    kept; one that was cut off is resumed from its last checkpoint, of which a run saves ten.

    Args:
        sweep: What is trained and tested.
        work_dir: Where everything is written; the runs are in ``runs/<row>_seed<seed>``.
        processes: Runs side by side on each device, one thread each.
        report: Takes the result of each finished run and whether it was kept from an earlier call.
        save_predictions: Keep what the last epoch predicts on the test data, as ``predictions.pkl``.
        devices: See :func:`compare`.

    Returns:
        Results of :func:`train_and_test`, each with ``row``, ``seed`` and ``run``, the name of its folder.

    Raises:
        ValueError: There is no such device.
        JobFailedError: A run failed; what is finished is kept.
    """
    jobs, folder = plan_jobs(sweep, work_dir.absolute(), save_predictions), work_dir.absolute() / "runs"
    return list(run_jobs(jobs, folder, processes, lambda _, result, kept: report(result, kept), devices).values())


def plan_jobs(sweep: Sweep, work_dir: Path, save_predictions: bool = False) -> list[Job]:
    """Return the runs of a sweep.

    What the runs prepare on their teachers is in ``teachers``: the first that needs a result computes it, the others
    wait for its file.

    Raises:
        ValueError: A row is not trained by epochs.
    """
    jobs: dict[str, Job] = {}
    for name, row in sweep.rows.items():
        for seed in row.seeds or sweep.seeds:
            if not isinstance((row.config.get("train_cfg") or {}).get("max_epochs"), int):
                raise ValueError(f"row {name}: a sweep trains by epochs; its train_cfg has no max_epochs=N")
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
    checkpoint.update(interval=math.ceil(config.train_cfg.max_epochs / 10), save_last=True, max_keep_ckpts=2)
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
    """Train a config and evaluate its student on the test data; a training that was cut off is resumed.

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
    config.resume = (home / "last_checkpoint").is_file()
    hook = _RecordHook(metrics[0])
    runner = build_runner(config, tested=True)
    same_evaluator = config.get("test_evaluator") == config.get("val_evaluator")
    for each in (hook, MetricNamesHook(metrics if same_evaluator else metrics[:1])):
        runner.register_hook(each)
    runner.train()
    size = config_input_size(config) or runner.train_dataloader.dataset[0]["inputs"].shape[-2:]
    network = runner.model.student if is_distillation(config) else runner.model
    params, macs = complexity(network, (size[0], size[1]))
    record = hook.record
    torch.save({"state_dict": record["weights"], "meta": {"epoch": record["epoch"]}}, home / "best.pth")

    def test(part: str, checkpoint: Path, out: str | None = None) -> dict[str, float]:
        options = {"experiment_name": f"{home.name}_{part}_{time.time_ns()}"}
        found = evaluate(str(written), str(checkpoint), options, str(home / part), out)
        return {name: require_metric(name, found, "the test") for name in metrics}

    last = home / f"epoch_{runner.max_epochs}.pth"
    scores = test("test", last, str(home / "predictions.pkl") if save_predictions else None)
    # The last epoch is often the best.
    best_scores = scores if hook.has_weights_of(last) else test("test_of_best", home / "best.pth")
    scores = {**scores, **{f"best/{name}": score for name, score in best_scores.items()}}
    seconds = {name: record[name] for name in ("seconds", "preparation_seconds")}
    return {**scores, "params": params, "macs": macs, **seconds}


class _RecordHook(Hook):
    """Keeps what the result needs of a training, in memory and in its checkpoints.

    The weights of the best epoch on the validation data are no checkpoint of their own, as writing it each time would
    take longer than the epoch of a small network.

    Attributes:
        record: ``score``, ``epoch`` and ``weights`` of the best epoch; ``validated``, the last epoch that was; and
            ``seconds`` of the training, ``preparation_seconds`` before it.
    """

    priority = "VERY_LOW"

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.record: dict[str, Any] = {"score": float("-inf"), "epoch": 0, "weights": {}, "validated": 0}
        self.record |= {"seconds": 0.0, "preparation_seconds": 0.0}
        self._start = time.perf_counter()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take over what was recorded before the training was cut off."""
        self.record.update(checkpoint.pop("sweep", {}))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Store what was recorded so far."""
        self._add_seconds("seconds")
        checkpoint["sweep"] = dict(self.record)

    def before_train(self, runner: Runner) -> None:
        """Note when everything is prepared and the training begins."""
        self._add_seconds("preparation_seconds")

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Keep the weights if they are the best."""
        self.record["validated"] = runner.epoch
        score = require_metric(self.metric, metrics or {}, "the validation")
        if score > self.record["score"]:
            weights = {key: value.detach().cpu().clone() for key, value in runner.model.state_dict().items()}
            self.record |= {"score": score, "epoch": runner.epoch, "weights": weights}

    def after_train(self, runner: Runner) -> None:
        """Validate the last epoch if the training was cut off right before that, and note when it ends."""
        if self.record["validated"] < runner.epoch and runner.val_loop is not None:
            runner.val_loop.run()
        self._add_seconds("seconds")

    def has_weights_of(self, checkpoint: Path) -> bool:
        """Return whether a checkpoint holds the weights of the best epoch."""
        best, stored = self.record["weights"], read_checkpoint(str(checkpoint))["state_dict"]
        return best.keys() == stored.keys() and all(torch.equal(value, stored[key]) for key, value in best.items())

    def _add_seconds(self, kind: str) -> None:
        now = time.perf_counter()
        self.record[kind] += now - self._start
        self._start = now
