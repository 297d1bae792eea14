"""One run of a sweep: a config trained, or resumed, its student tested, its exits scored beside chance."""

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
from torch import Tensor

from kd_mm.apis.evaluate import evaluate
from kd_mm.apis.runner import build_runner
from kd_mm.apis.stages import config_input_size
from kd_mm.checks.metrics import MetricCheckHook, require_metric
from kd_mm.datasets.identity_sampler import check_identity_batches
from kd_mm.distillers import find_distiller
from kd_mm.engine.jobs import Result
from kd_mm.hooks.exit_probe import exit_logits
from kd_mm.hooks.report import complexity
from kd_mm.preparation.data import TrainingData
from kd_mm.utils.checkpoint import read_checkpoint
from kd_mm.utils.config import is_distillation
from kd_mm.utils.contexts import eval_mode, isolated_rng, unwrapped

#: Images of the training data that are scored where the validation data do not serve.
_IMAGES = 2000


def run_row(
    config: dict[str, Any], row: str, seed: int, metrics: Sequence[str], save_predictions: bool, home: Path
) -> Result:
    """Train a config, in a process of its own, and evaluate its student on the test data; resume what was cut off.

    Args:
        config: A plain config or a distillation, trained by epochs. It is written to ``<home>/config.py``.
        row: Name of the row in the table.
        seed: That the config has.
        metrics: Names of metrics, larger is better; of epochs that are equally good by the first metric, the first
            counts as the best.
        save_predictions: Write what the last epoch predicts on the test data to ``<home>/predictions.pkl``.
        home: The work dir.

    Returns:
        Each metric under its name (after the last epoch) and as ``best/<name>`` (of the best epoch on the validation
        data), ``params`` and ``macs`` (multiply-adds of one image) of the network alone, ``seconds`` of training with
        validation, ``preparation_seconds`` before it, what :func:`exit_scores` returns, ``row``, ``seed`` and ``run``.

    Raises:
        ValueError: The evaluation gives no such metric, or the batches are not those of their sampler.
    """
    hook = _RecordHook(metrics[0])
    runner = _build(config, metrics, home)
    runner.register_hook(hook)
    runner.train()
    size = config_input_size(runner.cfg) or runner.train_dataloader.dataset[0]["inputs"].shape[-2:]
    distilled, record = is_distillation(runner.cfg), hook.record
    params, macs = complexity(runner.model.student if distilled else runner.model, (size[0], size[1]))
    last = home / f"epoch_{runner.max_epochs}.pth"
    unwrapped(runner).load_state_dict(read_checkpoint(str(last))["state_dict"])  # of a run with EMAHook the averages
    exits = exit_scores(runner) if distilled else {}
    torch.save({"state_dict": record["weights"], "meta": {"epoch": record["epoch"]}}, home / "best.pth")

    def test(part: str, checkpoint: Path, out: str | None = None) -> dict[str, float]:
        options = {"experiment_name": f"{home.name}_{part}_{time.time_ns()}"}
        found = evaluate(str(home / "config.py"), str(checkpoint), options, str(home / part), out)
        return {name: require_metric(name, found, "the test") for name in metrics}

    scores = test("test", last, str(home / "predictions.pkl") if save_predictions else None)
    # The last epoch is often the best.
    best_scores = scores if hook.has_weights_of(last) else test("test_of_best", home / "best.pth")
    scores = {**scores, **{f"best/{name}": score for name, score in best_scores.items()}}
    seconds = {name: record[name] for name in ("seconds", "preparation_seconds")}
    about = {"row": row, "seed": seed, "run": home.name}
    return {**about, **scores, "params": params, "macs": macs, **seconds, **exits}


def exit_scores(runner: Runner) -> dict[str, Any]:
    """Score each exit on the validation data, or on training images where only these have what it predicts.

    A stage whose logits are the network's own counts as an exit. In re-identification the validation data have other
    identities.

    Args:
        runner: Of a distillation that is trained.

    Returns:
        ``exit/student/1`` ... and the same for each teacher, in percent; ``exit/chance``, that of the best
        constant prediction; ``exit/metric``, what is measured. Empty where no loss reads stage logits.
    """
    distiller = find_distiller(runner)
    if "student.stage_logits" not in distiller.requirements.reads:
        return {}
    validated = runner.cfg.get("val_dataloader") is not None and distiller.task.closed_set
    split = "validation" if validated else "training"
    read_targets = distiller.task.validation_targets if validated else distiller.task.targets
    teachers = [distiller.teachers[name] for name in distiller.objective.teachers_of(distiller.losses)]
    tallies: dict[str, Tensor] = {}
    images = 0
    with torch.no_grad(), eval_mode(distiller), isolated_rng("exit scores"):
        for data_batch in TrainingData(runner, distiller).loader("val_dataloader" if validated else "train_dataloader"):
            data = distiller.data_preprocessor(data_batch, False)
            with runner.optim_wrapper.optim_context(distiller):
                with distiller.recorder:
                    distiller.student(data["inputs"], data["data_samples"], mode="loss")  # samples regions
                logits = exit_logits(distiller, data["inputs"], teachers)
            targets = read_targets(data["data_samples"])
            for (network, stage), each in logits.items():
                number = stage or distiller.objective.last
                if number:
                    name = f"{network}/{number}"
                    tallies[name] = tallies.get(name, 0.0) + distiller.task.tally(each, targets)
            images += len(data["data_samples"])
            if not validated and images >= _IMAGES:
                break
    found = {name: distiller.task.measure(tally) for name, tally in tallies.items()}
    scores = {f"exit/{name}": 100 * each.score for name, each in found.items()}
    chance = next(iter(found.values())).chance
    return {**scores, "exit/chance": 100 * chance, "exit/metric": f"{distiller.task.metric} on the {split} data"}


def check_row(config: dict[str, Any], metrics: Sequence[str], home: Path) -> Result:
    """Start a run as :func:`run_row` does and end it before its first step; every wrong input is found so."""
    runner = _build(config, metrics, home)
    runner.register_hook(_EndHook())
    with contextlib.suppress(EndError):
        runner.train()
    return {}


def _build(given: dict[str, Any], metrics: Sequence[str], home: Path) -> Runner:
    """Return the Runner of a row; its config is written to ``<home>/config.py``."""
    if given.get("custom_imports"):  # a spawned process has not read the config's file
        import_modules_from_strings(**given["custom_imports"])
    config = Config(given)
    check_identity_batches(config)
    # The engine distinguishes the runners of one process by this name.
    config.experiment_name, config.work_dir = f"{home.name}_{time.time_ns()}", str(home)
    config.dump(home / "config.py")
    config.resume = (home / "last_checkpoint").is_file()
    runner = build_runner(config, tested=True)
    same_evaluator = config.get("test_evaluator") == config.get("val_evaluator")
    runner.register_hook(MetricCheckHook(dict.fromkeys(metrics if same_evaluator else metrics[:1], "--metric")))
    return runner


class EndError(Exception):
    """Ends a run that has started; raised by a hook."""


class _EndHook(Hook):
    """Ends a run after everything that comes before its first step."""

    priority = "LOWEST"

    def before_train(self, runner: Runner) -> None:
        raise EndError


class _RecordHook(Hook):
    """Records what the result needs of a training, in memory and in its checkpoints.

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
        self._validated: dict[str, Tensor] = {}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        self.record.update(checkpoint.pop("sweep", {}))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        self._add_seconds("seconds")
        checkpoint["sweep"] = dict(self.record)

    def before_train(self, runner: Runner) -> None:
        self._add_seconds("preparation_seconds")

    def before_val_epoch(self, runner: Runner) -> None:
        """Copy the weights that are validated: after it, EMAHook has put those that are trained in their place."""
        self._validated = {key: value.detach().cpu().clone() for key, value in runner.model.state_dict().items()}

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self.record["validated"] = runner.epoch
        score = require_metric(self.metric, metrics or {}, "the validation")
        if score > self.record["score"]:
            self.record |= {"score": score, "epoch": runner.epoch, "weights": self._validated}

    def after_train(self, runner: Runner) -> None:
        """Validate the last epoch if the training was cut off right before that, and note when it ends."""
        if self.record["validated"] < runner.epoch and runner.val_loop is not None:
            runner.val_loop.run()
        self._add_seconds("seconds")

    def has_weights_of(self, checkpoint: Path) -> bool:
        best, stored = self.record["weights"], read_checkpoint(str(checkpoint))["state_dict"]
        return best.keys() == stored.keys() and all(torch.equal(value, stored[key]) for key, value in best.items())

    def _add_seconds(self, kind: str) -> None:
        now = time.perf_counter()
        self.record[kind] += now - self._start
        self._start = now
