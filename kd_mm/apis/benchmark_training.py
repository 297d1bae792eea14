"""How fast a run trains: loader, engine, hooks and log together, and what each of them costs."""

import contextlib
import copy
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from rich.table import Table
from torch.utils.data import DataLoader

from kd_mm.apis.benchmark_parts import without_files
from kd_mm.apis.run_options import enable_amp
from kd_mm.apis.runner import build_runner
from kd_mm.apis.sweep_run import EndError
from kd_mm.distillers import find_distiller
from kd_mm.preparation import skip_preparation
from kd_mm.utils.config import is_distillation
from kd_mm.utils.tables import render

#: Loaders that are compared, and the hook that each adds to the config.
LOADERS: dict[str, dict[str, Any]] = {
    "ordinary loader": {},
    "DeviceLoader": {"device_loader": {"type": "kd_mm.DeviceLoader"}},
}
#: Engines whose loop is compared, and whether it has kd_mm's hooks.
ENGINES = {"mmengine": False, "kd_mm": True}
#: Hooks of a config that are left out: what they do comes before the first step, or is added for one of the loaders.
_LEFT_OUT = ("kd_mm.PrepareTeachersHook", "kd_mm.TeacherCheckHook", "kd_mm.DeviceLoader")
#: Iterations of a loop without a model, which take half a millisecond each.
_IDLE_ITERATIONS = 1000


def benchmark_training(
    config: Config,
    amp: bool = False,
    batch_size: int | None = None,
    iterations: int = 30,
    warmup: int = 5,
    rounds: int = 3,
    clock: str = "auto",
) -> dict[str, Any]:
    """Train a config for a few iterations by the ordinary loader and by DeviceLoader, and the engine without a model.

    Each round runs the config by either loader, then an idle model, whose step returns four scalars and whose loader
    nothing, in a plain loop of mmengine with the config's stock hooks, and in kd_mm's, with all of the config's hooks
    and those that :func:`kd_mm.apis.runner.build_runner` adds. Ratios and differences are of one round, so that the
    state of the machine cancels. Nothing is validated or saved; teachers have random weights and are not prepared.

    Args:
        config: Of a training, with its data. It is left as it is.
        amp: Mixed precision as ``tools/train.py --amp`` has it.
        batch_size: Images a step; default the config's.
        iterations: Measured in each run.
        warmup: Iterations before these, beside the first.
        rounds: How often everything is run.
        clock: ``"wall"``, or ``"cpu"``, the seconds that the process was at work. ``"auto"``: the latter on the CPU
            with one thread and without workers.

    Returns:
        A dict for JSON. ``loaders``: for each loader ``images_per_second``, the median over the rounds, ``low`` and
        ``high``, and ``loader_share``, the part of the time that the loop waited for its batches. ``speedup``: images
        per second of DeviceLoader over the ordinary loader's, of each round. ``engine``: milliseconds of an iteration
        of either loop, medians over the rounds, and ``added``, their difference. Beside these the setting.

    Raises:
        ValueError: No iteration to measure, or images that DeviceLoader does not take.
    """
    if iterations < 1 or warmup < 0 or rounds < 1:
        raise ValueError(f"iterations={iterations}, warmup={warmup}, rounds={rounds}: measure at least one, after any")
    config = _prepared(config, amp, batch_size)
    workers = config.train_dataloader.get("num_workers", 0)
    if clock == "auto":
        clock = "cpu" if get_device() == "cpu" and torch.get_num_threads() == 1 and not workers else "wall"
    seconds = {"wall": time.perf_counter, "cpu": time.process_time}[clock]
    speeds: dict[str, list[float]] = {name: [] for name in LOADERS}
    shares: dict[str, list[float]] = {name: [] for name in LOADERS}
    idle: dict[str, list[float]] = {name: [] for name in ENGINES}
    for _ in range(rounds):
        for name, hooks in LOADERS.items():
            watch = _run(config, _Stopwatch(seconds, warmup, iterations), hooks)
            speeds[name].append(watch.images / watch.total)
            shares[name].append(watch.waited / watch.total)
        for name, ours in ENGINES.items():
            watch = _run(config, _Stopwatch(seconds, 50, _IDLE_ITERATIONS), idle=True, ours=ours)
            idle[name].append(1000 * watch.total / _IDLE_ITERATIONS)
    engine = {name: statistics.median(values) for name, values in idle.items()}
    return {
        "device": torch.cuda.get_device_name() if get_device() == "cuda" else get_device(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "amp": amp,
        "batch_size": config.train_dataloader.batch_size,
        "num_workers": workers,
        "iterations": iterations,
        "warmup": warmup,
        "rounds": rounds,
        "clock": clock,
        "loaders": {
            name: {"images_per_second": statistics.median(values), "low": min(values), "high": max(values)}
            | {"loader_share": statistics.median(shares[name])}
            for name, values in speeds.items()
        },
        "speedup": [new / old for old, new in zip(*speeds.values(), strict=True)],
        "engine": {**engine, "added": engine["kd_mm"] - engine["mmengine"]},
    }


def describe_training(result: Mapping[str, Any]) -> str:
    """Return the result of :func:`benchmark_training` as text."""
    setting = f"{result['device']}, {result['threads']} threads, batch {result['batch_size']}"
    setting += f", {result['num_workers']} workers" + ", mixed precision" * result["amp"]
    title = f"{result['rounds']} rounds of {result['iterations']} iterations, {result['clock']} time: {setting}"
    table = Table("loader", "images/s", "lowest", "highest", "share of the loader", title=title)
    for name, part in result["loaders"].items():
        speeds = (f"{part[key]:.0f}" for key in ("images_per_second", "low", "high"))
        table.add_row(name, *speeds, f"{part['loader_share']:.1%}")
    engine = result["engine"]
    return (
        f"{render(table)}\n"
        f"DeviceLoader over the ordinary loader: {statistics.median(result['speedup']):.2f} "
        f"({min(result['speedup']):.2f} to {max(result['speedup']):.2f})\n"
        f"loop without a model, ms an iteration: mmengine {engine['mmengine']:.3f}, kd_mm {engine['kd_mm']:.3f} "
        f"({engine['added']:+.3f})"
    )


class _Stopwatch(Hook):
    """Measures the seconds of iterations, those of them that the loop waited for batches, and images; ends the run."""

    priority = "LOWEST"

    def __init__(self, seconds: Callable[[], float], warmup: int, iterations: int) -> None:
        self.seconds, self.warmup, self.iterations = seconds, warmup, iterations
        self.total = self.waited = self.begin = self.end = 0.0
        self.count = self.images = 0

    def loaded(self) -> None:
        if self.count > self.warmup:
            self.waited += self.seconds() - self.end

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.count += 1
        measured = self.count - self.warmup - 1
        if measured > 0:
            self.images += len(data_batch["inputs"])
        if measured in (0, self.iterations) and torch.cuda.is_available():
            torch.cuda.synchronize()
        if measured == 0:
            self.begin = self.seconds()
        elif measured == self.iterations:
            self.total = self.seconds() - self.begin
            raise EndError
        self.end = self.seconds()


class _LoadedHook(Hook):
    """Notifies a stopwatch of each batch, before all other hooks."""

    priority = "HIGHEST"

    def __init__(self, watch: _Stopwatch) -> None:
        self.watch = watch

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.watch.loaded()


class _IdleHook(Hook):
    """Gives the loop empty batches, and the model a step of four scalars."""

    priority = "HIGHEST"  # before the loader is followed

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        samples: Any = range(10**6)
        loop.dataloader = DataLoader(samples, batch_size=1, collate_fn=lambda samples: {"inputs": samples})
        if isinstance(loop, IterBasedTrainLoop):
            loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)
        scalars = {name: torch.zeros((), device=get_device()) for name in ("loss", "loss_cls", "loss_kd")}
        model = runner.model
        model.train_step = lambda data, optim_wrapper: model.parse_losses(scalars)[1]


def _prepared(config: Config, amp: bool, batch_size: int | None) -> Config:
    """Return a copy without validation, test, preparation and saving."""
    config = copy.deepcopy(config)
    if is_distillation(config):
        config.model = without_files(config.model)
    if amp:
        enable_amp(config)
    for part in ("val", "test"):
        for key in ("cfg", "dataloader", "evaluator"):
            config[f"{part}_{key}"] = None
    hooks = config.get("default_hooks") or {}
    hooks = {name: hook for name, hook in hooks.items() if hook["type"] not in _LEFT_OUT}
    hooks["checkpoint"] = {"type": "CheckpointHook", "interval": 10**9, "save_last": False}
    config.default_hooks, config.resume, config.launcher = hooks, False, "none"
    config.train_dataloader.batch_size = batch_size or config.train_dataloader.batch_size
    return config


def _run(
    config: Config, watch: _Stopwatch, hooks: Mapping[str, Any] | None = None, idle: bool = False, ours: bool = True
) -> _Stopwatch:
    """Train by kd_mm's Runner or by mmengine's with the stock hooks alone, until the stopwatch ends it."""
    config = copy.deepcopy(config)
    config.default_hooks.update(hooks or {})
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        config.work_dir, config.experiment_name = folder, Path(folder).name
        if ours:
            runner = build_runner(config)
        else:
            stock = {k: v for k, v in config.default_hooks.items() if not v["type"].startswith("kd_mm.")}
            config.default_hooks, config.custom_hooks = stock, []
            runner = Runner.from_cfg(config)
        if is_distillation(config):
            skip_preparation(find_distiller(runner))
        for hook in (watch, _LoadedHook(watch), *([_IdleHook()] if idle else [])):
            runner.register_hook(hook)
        with contextlib.suppress(EndError):
            runner.train()
    if watch.total == 0:
        raise ValueError("the run is over before its measured iterations: raise train_cfg.max_epochs, or measure fewer")
    return watch
