"""What distillation costs: the training step beside its floor, the plain student's step and the teacher's forward."""

from __future__ import annotations

import copy
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from rich.table import Table
from torch import Tensor, nn

from kd_mm.apis.noise import noise_batch
from kd_mm.apis.run import use_amp
from kd_mm.distillers import Distiller, EMATeacher, Teacher
from kd_mm.distillers.build import teacher_configs
from kd_mm.distillers.monitor import TermMonitor
from kd_mm.distillers.random_state import private_random_state
from kd_mm.distillers.teacher import teacher_model_config
from kd_mm.hooks.report import render
from kd_mm.registry import MODELS

STUDENT, TEACHER, DISTILLATION, WITHOUT = "student step", "teacher forward", "distillation step", "without "
#: Iterations between two reads of the loss terms, the engine's default logging interval.
LOG_INTERVAL = 10


def benchmark(
    config: Config,
    device: str = "cpu",
    amp: bool = False,
    batch_size: int | None = None,
    input_size: tuple[int, int] | None = None,
    steps: int = 30,
    warmup: int = 5,
    terms: bool = True,
    channels_last: bool = False,
) -> dict[str, Any]:
    """Time a distillation config on one resident batch of noise, with random weights; no file is read or written.

    Each round runs, one after the other, the plain student's training step (built from its own config, with its own
    optimizer), the plain teachers' forward (eval, no_grad; a classifier's to its logits, a detector's as deep as it is
    read: backbone, neck or heads), the distillation step, and the distillation step without each of the recipe's
    losses. A round sees one state of the machine, so drift cancels in ratios within a round. Learning rates are set to
    zero, so that every step computes on the same weights.

    Args:
        config: A distillation config of a classifier or a detector. It is left as it is.
        device: ``"cpu"`` or ``"cuda"``; CUDA times come from device events around each step.
        amp: Mixed precision as ``tools/train.py --amp`` has it, for every measured part alike.
        batch_size: Images a step; default ``train_dataloader.batch_size`` of the config.
        input_size: Height and width in pixels; default the ``input_size`` of the Distiller.
        steps: Measured rounds.
        warmup: Rounds before these.
        terms: Whether to time the step without each loss too.
        channels_last: Keep every network of every part in the ``channels_last`` memory format.

    Returns:
        A dict for JSON. ``parts``: for each measured part ``median``, ``min`` and ``max`` in seconds and ``cpu``, the
        median of the process's CPU seconds. ``ratio``: the distillation step over student step plus teacher forward,
        ``of_medians``, ``paired`` (median over the rounds), ``low`` and ``high`` (its quartiles) and ``cpu`` (of CPU
        seconds). ``terms``: for each loss the ``seconds`` it adds to the step (median over the rounds of the
        difference), and their ``share`` of student step plus teacher forward. Beside these the setting.

    Raises:
        ValueError: No distillation config, no CUDA device, or a number of steps that measures nothing.
    """
    _check(config, device, amp, steps, warmup)
    config = copy.deepcopy(config)
    if amp:
        use_amp(config)
    batch_size = batch_size or config.train_dataloader.batch_size
    if input_size is not None:
        config.model.input_size = tuple(input_size)
    with private_random_state("benchmark"), DefaultScope.overwrite_default_scope(config.get("default_scope")):
        place = {"device": device, "memory_format": torch.channels_last if channels_last else torch.preserve_format}
        parts, size = _parts(config, place, amp, batch_size, terms)
        seconds, cpu = _measure(parts, device, steps, warmup)
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "amp": amp,
        "channels_last": channels_last,
        "batch_size": batch_size,
        "input_size": list(size),
        "steps": steps,
        "warmup": warmup,
        **summarize(seconds, cpu),
    }


def describe(result: Mapping[str, Any]) -> str:
    """Return the result of :func:`benchmark` as text."""
    size = "x".join(str(side) for side in result["input_size"])
    setting = f"{result['device']}, {result['threads']} threads, batch {result['batch_size']}, {size} pixels"
    setting += ", mixed precision" * result["amp"] + ", channels_last" * result["channels_last"]
    parts = Table("part", "median ms", "lowest", "highest", "CPU ms", title=f"{result['steps']} rounds: {setting}")
    for name, part in result["parts"].items():
        parts.add_row(name, *(f"{1000 * part[key]:.1f}" for key in ("median", "min", "max", "cpu")))
    terms = Table("loss", "adds ms", "share of student + teacher", title="What each loss adds to the step")
    for name, term in result["terms"].items():
        terms.add_row(name, f"{1000 * term['seconds']:.1f}", f"{term['share']:+.1%}")
    ratio = result["ratio"]
    line = (
        f"overhead ratio, distillation / (student + teacher): {ratio['of_medians']:.3f} of the medians; "
        f"round by round {ratio['paired']:.3f} (quartiles {ratio['low']:.3f} to {ratio['high']:.3f}); "
        f"of CPU time {ratio['cpu']:.3f}"
    )
    return render(parts, *([terms] if result["terms"] else [])) + "\n" + line


def summarize(seconds: Mapping[str, Sequence[float]], cpu: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return ``parts``, ``ratio`` and ``terms`` of :func:`benchmark` from the seconds of each part, round by round."""
    floor = [student + teacher for student, teacher in zip(seconds[STUDENT], seconds[TEACHER], strict=True)]
    cpu_floor = statistics.median(cpu[STUDENT]) + statistics.median(cpu[TEACHER])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    paired = [whole / least for whole, least in zip(seconds[DISTILLATION], floor, strict=True)]
    low, _, high = statistics.quantiles(paired, n=4) if len(paired) > 1 else paired * 3
    terms = {}
    for name in [name for name in seconds if name.startswith(WITHOUT)]:
        added = [whole - less for whole, less in zip(seconds[DISTILLATION], seconds[name], strict=True)]
        cost = statistics.median(added)
        terms[name[len(WITHOUT) :]] = {"seconds": cost, "share": cost / statistics.median(floor)}
    return {
        "parts": {
            name: {
                "median": medians[name],
                "min": min(values),
                "max": max(values),
                "cpu": statistics.median(cpu[name]),
            }
            for name, values in seconds.items()
        },
        "ratio": {
            "of_medians": medians[DISTILLATION] / (medians[STUDENT] + medians[TEACHER]),
            "paired": statistics.median(paired),
            "low": low,
            "high": high,
            "cpu": statistics.median(cpu[DISTILLATION]) / cpu_floor if cpu_floor else float("nan"),
        },
        "terms": terms,
    }


def _check(config: Config, device: str, amp: bool, steps: int, warmup: int) -> None:
    if not str(config.get("model", {}).get("type", "")).endswith("Distiller"):
        raise ValueError("the benchmark takes a distillation apart: give a config whose model is a kd_mm.Distiller")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device {device} is unknown; choose cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no CUDA device here; use --device cpu")
    if device == "cpu" and amp and torch.cuda.is_available():
        raise ValueError("--device cpu --amp: mixed precision takes the GPU here; hide it (CUDA_VISIBLE_DEVICES=)")
    if steps < 1 or warmup < 0:
        raise ValueError(f"--steps {steps} --warmup {warmup}: measure at least one round, after none or more")


def _parts(
    config: Config, place: dict[str, Any], amp: bool, batch_size: int, terms: bool
) -> tuple[dict[str, Callable[[], Any]], tuple[int, int]]:
    """Build everything and return what is to be timed by name, and the input size."""
    preprocessor = config.get("data_preprocessor")
    model = _without_files(config.model)
    if preprocessor is not None:
        model.setdefault("data_preprocessor", preprocessor)
    device, distiller = place["device"], _distiller(model, place)
    student_config = ConfigDict({"data_preprocessor": preprocessor, **model.student})
    student = MODELS.build(student_config)
    size, classes = distiller.input_size, _num_classes(distiller)
    batch = noise_batch(distiller.task, batch_size, size, classes, device)
    parts = {STUDENT: _training_step(student.to(**place), config, batch)}
    views = [
        (_to_deepest_tap(teacher, one.to(**place), distiller), _view(teacher, distiller, batch))
        for name, teacher in distiller.teachers.items()
        for one in [_plain(model.teacher.get(name, {"config": student_config}))]
    ]
    parts[TEACHER] = _forward(views, config.optim_wrapper, device if amp else None)
    parts[DISTILLATION] = _training_step(distiller, config, batch)
    for name in distiller.losses if terms else ():
        less = copy.deepcopy(model)
        less.recipe.losses.pop(name)
        parts[WITHOUT + name] = _training_step(_distiller(less, place), config, batch)
    return parts, size


def _without_files(config: ConfigDict) -> ConfigDict:
    """Return a model config in which every network starts from random weights."""
    config = copy.deepcopy(config)
    config.teacher = {
        name: {**teacher, "checkpoint": None, "random_weights": True}
        for name, teacher in teacher_configs(config.get("teacher")).items()
    }
    if config.get("recipe", {}).get("teacher_exits", {}).get("mode") == "joint":
        config.recipe.teacher_exits.mode = "pretrained"
    return config


def _distiller(config: ConfigDict, place: dict[str, Any]) -> Distiller:
    distiller: Distiller = MODELS.build(config)
    for teacher in distiller.teachers.values():
        teacher.exits_ready = True
        if isinstance(teacher, EMATeacher):
            teacher.start(distiller)
    return distiller.to(**place)


def _num_classes(distiller: Distiller) -> int:
    head: Any = getattr(distiller.student, "head", None)
    classes = distiller.num_classes.get("") or getattr(head, "num_classes", None)
    if classes is None:
        name = type(distiller.student).__name__
        raise ValueError(f"the benchmark makes batches for classifiers; {name} has no class count")
    return int(classes)


def _to_deepest_tap(teacher: Teacher, plain: nn.Module, distiller: Distiller) -> Callable[[Tensor], Any]:
    """Return what runs a plain teacher as deep as the teacher is read; a classifier to its logits in any case."""
    assert teacher.recorder is not None
    paths = {tap.path.partition(".")[0] for tap in teacher.recorder.taps.values()}
    if not distiller.task.answer_is_response and paths == {"backbone"}:
        return plain.backbone  # type: ignore[return-value]
    if not distiller.task.answer_is_response and paths <= {"backbone", "neck"}:
        return functools.partial(distiller.task.forward_features, plain)
    return functools.partial(distiller.task.forward, plain)


def _plain(teacher: Mapping[str, Any]) -> nn.Module:
    config, scope = teacher_model_config(teacher["config"])
    with DefaultScope.overwrite_default_scope(scope):
        plain: nn.Module = MODELS.build(config)
    return plain.requires_grad_(False).eval()


def _view(teacher: Any, distiller: Distiller, batch: dict[str, Any]) -> Tensor:
    # The plain teacher gets what upstream would give it, whatever dtype and memory format the distillation chose.
    return teacher.see(distiller.data_preprocessor(batch, True)["inputs"]).float().contiguous()


def _forward(
    views: Sequence[tuple[Callable[[Tensor], Any], Tensor]], wrapper: Mapping[str, Any], amp: str | None
) -> Callable[[], Any]:
    dtype = torch.float16 if wrapper.get("type") == "AmpOptimWrapper" else torch.bfloat16

    def run() -> None:
        with torch.no_grad(), torch.autocast(amp or "cpu", dtype=dtype, enabled=amp is not None):
            for network, inputs in views:
                network(inputs)

    return run


def _training_step(model: Any, config: Config, batch: dict[str, Any]) -> Callable[[], Any]:
    wrapper = build_optim_wrapper(model, copy.deepcopy(config.optim_wrapper))
    for group in wrapper.param_groups:
        group["lr"] = 0.0
    model.train()
    if not isinstance(model, Distiller):
        return lambda: model.train_step(batch, wrapper)
    monitor = model.monitor = TermMonitor()

    def step() -> None:
        monitor.iteration += 1
        monitor.report = monitor.iteration % LOG_INTERVAL == 0
        model.train_step(batch, wrapper)

    return step


def _measure(
    parts: Mapping[str, Callable[[], Any]], device: str, steps: int, warmup: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return seconds and CPU seconds of each part, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    cpu: dict[str, list[float]] = {name: [] for name in parts}
    clock = _cuda_seconds if device == "cuda" else _wall_seconds
    for number in range(warmup + steps):
        for name, part in parts.items():
            began = time.process_time()
            elapsed = clock(part)
            if number >= warmup:
                seconds[name].append(elapsed)
                cpu[name].append(time.process_time() - began)
    return seconds, cpu


def _wall_seconds(part: Callable[[], Any]) -> float:
    began = time.perf_counter()
    part()
    return time.perf_counter() - began


def _cuda_seconds(part: Callable[[], Any]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    part()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000
