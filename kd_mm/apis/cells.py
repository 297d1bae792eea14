"""Cells of a comparison: many short trainings side by side, each kept once it is finished."""

from __future__ import annotations

import gc
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from kd_mm.apis.evaluate import evaluate
from kd_mm.apis.metric_names import MetricNamesHook, require
from kd_mm.apis.run import build_runner
from kd_mm.apis.stages import config_input_size
from kd_mm.datasets.identity_sampler import check_identity_batches
from kd_mm.engine.atomic_files import replace_file
from kd_mm.engine.console import console_to
from kd_mm.hooks.report import complexity
from kd_mm.utils.checkpoint import read_checkpoint

Result = dict[str, Any]

#: Hooks that prepare something on the teachers once.
_PREPARE = ("TeacherExitsHook", "TeacherCodesHook", "TeacherProbesHook")
#: A file in a job's folder once its training begins.
_PREPARED = "prepared"
#: Seconds after which jobs that wait for it are looked at again.
_LOOK_AGAIN = 0.5


class JobFailedError(RuntimeError):
    """A job of a comparison failed; the message names its log."""


@dataclass(frozen=True)
class Job:
    """The work of one cell.

    Attributes:
        name: Name of its folder.
        work: Takes the folder and returns the result, a dict for JSON. It has to be picklable.
        mark: A text that changes with whatever the result depends on, see :func:`fingerprint`.
        needs: Names of the jobs that have to be finished before.
        shares: Names of the jobs that have to be finished before, or to have begun training: what they prepare on the
            teachers is there then.
    """

    name: str
    work: Callable[[Path], Result]
    mark: str
    needs: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()


def fingerprint(*parts: Any) -> str:
    """Return a hash of configs and other values that JSON can say."""
    plain = [part.to_dict() if isinstance(part, Config) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, default=str, sort_keys=True).encode()).hexdigest()[:16]


def run_jobs(
    jobs: Sequence[Job], folder: Path, processes: int, report: Callable[[Job, Result, bool], object]
) -> dict[str, Result]:
    """Do jobs side by side, one thread each, in an order that respects what they wait for.

    A finished job leaves ``<folder>/<name>/result.json``; an earlier call's is kept where its mark is the same. A job
    that was cut off starts again from nothing.

    Args:
        jobs: All jobs.
        folder: Where their folders are.
        processes: How many run at a time.
        report: Called for each finished job with its result and whether it was kept from an earlier call.

    Returns:
        Result by name, in the order of ``jobs``.

    Raises:
        JobFailedError: A job failed. What is finished is kept.
    """
    kept = {job.name: finished(job, folder) for job in jobs}
    done = {name: result for name, result in kept.items() if result is not None}
    for job in jobs:
        if job.name in done:
            report(job, done[job.name], True)
    waiting = [job for job in jobs if job.name not in done]
    if not waiting:
        return done
    for job in waiting:
        (folder / job.name / _PREPARED).unlink(missing_ok=True)

    def is_due(job: Job) -> bool:
        prepared = (name for name in job.shares if name not in done)
        return set(job.needs) <= set(done) and all((folder / name / _PREPARED).exists() for name in prepared)

    with ProcessPoolExecutor(min(processes, len(waiting)), _context(), _start_worker, (os.getpid(),)) as pool:
        running: dict[Future[Result], Job] = {}
        try:
            while waiting or running:
                for job in [job for job in waiting if is_due(job)]:
                    waiting.remove(job)
                    running[pool.submit(execute, job, folder)] = job
                for future in wait(running, _LOOK_AGAIN, FIRST_COMPLETED).done:
                    job = running.pop(future)
                    done[job.name] = _result(future, job, folder)
                    report(job, done[job.name], False)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {job.name: done[job.name] for job in jobs}


def finished(job: Job, folder: Path) -> Result | None:
    """Return the result that an earlier call left under the same mark, else ``None``."""
    try:
        stored = json.loads((folder / job.name / "result.json").read_text())
    except (OSError, ValueError):
        return None
    return stored["result"] if stored.get("mark") == job.mark else None


def execute(job: Job, folder: Path) -> Result:
    """Do one job in this process and write its ``result.json``; the console goes to ``console.log`` beside it."""
    home = folder / job.name
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    with open(home / "console.log", "wb") as log, console_to(log.fileno()):
        try:
            result = job.work(home)
        except BaseException:
            log.write(traceback.format_exc().encode())
            raise
    replace_file(home / "result.json", json.dumps({"mark": job.mark, "result": result}, indent=2).encode())
    return result


def share_preparations(config: Config, folder: Path) -> None:
    """Have what a distillation trains on its teachers beforehand kept in a folder that other runs share."""
    for hook in (config.get("default_hooks") or {}).values():
        if str((hook or {}).get("type")).removeprefix("kd_mm.") in _PREPARE:
            hook.setdefault("cache_dir", str(folder))


def train_and_test(config: Config, metrics: Sequence[str], home: Path, predictions: bool = False) -> Result:
    """Train a config and evaluate its student on the test data.

    Args:
        config: A plain config or a distillation; trained by epochs. ``<home>/config.py`` keeps it.
        metrics: Names of metrics, larger is better; of epochs that are equally good by the first metric, the first
            counts as the best.
        home: The work dir.
        predictions: Keep what the last epoch predicts on the test data as ``<home>/predictions.pkl``.

    Returns:
        Each metric under its name (after the last epoch) and as ``best/<name>`` (of the best epoch on the validation
        data), ``params`` and ``macs`` (multiply-adds of one image) of the network alone, ``seconds`` of training with
        validation, and ``preparation_seconds`` before it.

    Raises:
        ValueError: The evaluation gives no such metric, or the batches are not those of their sampler.
    """
    check_identity_batches(config)
    # Several runners live in one process; the engine tells them apart by this name.
    config.experiment_name, config.work_dir = f"{home.name}_{time.time_ns()}", str(home)
    written = home / "config.py"
    config.dump(written)
    began, clock, best = time.perf_counter(), _Clock(), _Best(metrics[0])
    runner = build_runner(config, tested=True)
    for hook in (_Prepared(home / _PREPARED), clock, best):
        runner.register_hook(hook)
    alike = config.get("test_evaluator") == config.get("val_evaluator")
    runner.register_hook(MetricNamesHook(metrics if alike else metrics[:1]))
    runner.train()
    prepared = time.perf_counter() - began - clock.seconds
    size = config_input_size(config) or runner.train_dataloader.dataset[0]["inputs"].shape[-2:]
    params, macs = complexity(getattr(runner.model, "student", runner.model), (size[0], size[1]))
    torch.save({"state_dict": best.weights, "meta": {"epoch": best.epoch}}, home / "best.pth")

    def test(part: str, checkpoint: Path, out: str | None = None) -> dict[str, float]:
        options = {"experiment_name": f"{home.name}_{part}_{time.time_ns()}"}
        found = evaluate(str(written), str(checkpoint), options, str(home / part), out)
        return {name: require(name, found, "the test") for name in metrics}

    last = home / f"epoch_{runner.max_epochs}.pth"
    scores = test("test", last, str(home / "predictions.pkl") if predictions else None)
    same = _are_weights_of(best.weights, last)  # the last epoch is often the best
    of_best = scores if same else test("test_of_best", home / "best.pth")
    scores = {**scores, **{f"best/{name}": score for name, score in of_best.items()}}
    return {**scores, "params": params, "macs": macs, "seconds": clock.seconds, "preparation_seconds": prepared}


class _Prepared(Hook):
    """Leaves an empty file once everything is prepared and the training begins."""

    priority = "VERY_LOW"

    def __init__(self, file: Path) -> None:
        self.file = file

    def before_train(self, runner: Runner) -> None:
        self.file.touch()


class _Clock(Hook):
    """Times the training itself, validation included, without what other hooks prepare before it."""

    priority = "VERY_LOW"
    start = seconds = 0.0

    def before_train(self, runner: Runner) -> None:
        self.start = time.perf_counter()

    def after_train(self, runner: Runner) -> None:
        self.seconds = time.perf_counter() - self.start


class _Best(Hook):
    """Keeps the weights of the best epoch on the validation data in memory; a checkpoint each time would take longer
    than the epoch of a small network."""

    priority = "LOW"

    def __init__(self, metric: str) -> None:
        self.metric, self.score, self.epoch = metric, float("-inf"), 0
        self.weights: dict[str, torch.Tensor] = {}

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        score = require(self.metric, metrics or {}, "the validation")
        if score > self.score:
            self.score, self.epoch = score, runner.epoch
            self.weights = {key: value.detach().cpu().clone() for key, value in runner.model.state_dict().items()}


def _are_weights_of(weights: dict[str, torch.Tensor], checkpoint: Path) -> bool:
    stored = read_checkpoint(str(checkpoint))["state_dict"]
    return weights.keys() == stored.keys() and all(torch.equal(value, stored[key]) for key, value in weights.items())


def _result(future: Future[Result], job: Job, folder: Path) -> Result:
    try:
        return future.result()
    except Exception as error:
        raise JobFailedError(
            f"{job.name} failed: {' '.join(str(error).split())} (see {folder / job.name / 'console.log'}); what is "
            "finished is kept, the same command goes on from here"
        ) from error


def _context() -> Any:
    # A forked worker has the imports already; a process that has looked for CUDA, except through NVML, must not be
    # forked.
    untouched = os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK") == "1" or not torch.cuda.is_available()
    fork = sys.platform == "linux" and untouched and not torch.cuda.is_initialized()
    return multiprocessing.get_context("fork" if fork else "spawn")


def _start_worker(parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    # The engine collects garbage for each data set; the imported libraries need not be searched each time.
    gc.freeze()


def _end_with(parent: int) -> None:
    # A worker whose parent was killed would train on, and then wait for work for ever.
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
