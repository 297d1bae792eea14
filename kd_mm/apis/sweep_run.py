"""One run of a sweep: a config trained, resumed where it was cut off, and its student tested; its exits scored."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from kd_mm.apis.evaluate import evaluate
from kd_mm.apis.exit_scores import exit_scores
from kd_mm.apis.metric_checks import MetricCheckHook, require_metric
from kd_mm.apis.runner import build_runner
from kd_mm.apis.stages import config_input_size
from kd_mm.datasets.identity_sampler import check_identity_batches
from kd_mm.engine.jobs import Result
from kd_mm.hooks.report import complexity
from kd_mm.utils.checkpoint import read_checkpoint
from kd_mm.utils.config import is_distillation


def run_row(
    config: dict[str, Any], row: str, seed: int, metrics: Sequence[str], save_predictions: bool, home: Path
) -> Result:
    """Train and test a row under one seed, in a process of its own; see :func:`train_and_test`."""
    _import_modules(config)
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
        validation, ``preparation_seconds`` before it, and what :func:`~kd_mm.apis.exit_scores.exit_scores` returns.

    Raises:
        ValueError: The evaluation gives no such metric, or the batches are not those of their sampler.
    """
    written = home / "config.py"
    hook = _RecordHook(metrics[0])
    runner = _build(config, metrics, home)
    runner.register_hook(hook)
    runner.train()
    size = config_input_size(config) or runner.train_dataloader.dataset[0]["inputs"].shape[-2:]
    network = runner.model.student if is_distillation(config) else runner.model
    params, macs = complexity(network, (size[0], size[1]))
    exits = exit_scores(runner) if is_distillation(config) else {}
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
    return {**scores, "params": params, "macs": macs, **seconds, **exits}


def check_row(config: dict[str, Any], metrics: Sequence[str], home: Path) -> Result:
    """Start a run as :func:`train_and_test` does and end it before its first step; every wrong input is found so."""
    _import_modules(config)
    runner = _build(Config(config), metrics, home)
    runner.register_hook(_EndHook())
    with contextlib.suppress(_EndError):
        runner.train()
    return {}


def _build(config: Config, metrics: Sequence[str], home: Path) -> Runner:
    """Return the Runner of a row; ``<home>/config.py`` keeps its config."""
    check_identity_batches(config)
    # The engine distinguishes the runners of one process by this name.
    config.experiment_name, config.work_dir = f"{home.name}_{time.time_ns()}", str(home)
    config.dump(home / "config.py")
    config.resume = (home / "last_checkpoint").is_file()
    runner = build_runner(config, tested=True)
    same_evaluator = config.get("test_evaluator") == config.get("val_evaluator")
    runner.register_hook(MetricCheckHook(dict.fromkeys(metrics if same_evaluator else metrics[:1], "--metric")))
    return runner


def _import_modules(config: dict[str, Any]) -> None:
    if config.get("custom_imports"):  # a spawned process has not read the config's file
        import_modules_from_strings(**config["custom_imports"])


class _EndError(Exception):
    """Ends a run that has started."""


class _EndHook(Hook):
    """Ends a run after everything that comes before its first step."""

    priority = "LOWEST"

    def before_train(self, runner: Runner) -> None:
        raise _EndError


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
