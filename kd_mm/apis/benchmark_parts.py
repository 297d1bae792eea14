"""What the benchmark times: the plain student's step, the plain teacher's forward, the distillation and its terms."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from kd_mm.apis.noise import noise_batch
from kd_mm.distillers import Distiller, EMATeacher, Teacher
from kd_mm.distillers.builder import teacher_configs
from kd_mm.distillers.loss_monitor import LossMonitor
from kd_mm.distillers.teacher import teacher_model_config
from kd_mm.preparation import skip_preparation
from kd_mm.registry import MODELS

STUDENT, TEACHER, OBSERVED = "student step", "teacher forward", "teacher observed"
DISTILLATION, WITHOUT = "distillation step", "without "
#: Iterations between two reads of the loss terms, the engine's default logging interval.
LOG_INTERVAL = 10


def build_parts(
    config: Config, place: dict[str, Any], amp: bool, batch_size: int, terms: bool
) -> tuple[dict[str, Callable[[], Any]], tuple[int, int]]:
    """Build everything and return what is to be timed by name, and the input size.

    Args:
        config: A distillation config; it is taken apart.
        place: Keywords of ``Module.to``: device and memory format.
        amp: Whether the teacher's forward runs under autocast, too; the steps have it from their optimizer wrapper.
        batch_size: Images a step.
        terms: Whether there are steps without each loss.
    """
    preprocessor = config.get("data_preprocessor")
    model = _without_files(config.model)
    if preprocessor is not None:
        model.setdefault("data_preprocessor", preprocessor)
    device, distiller = place["device"], _distiller(model, place)
    student_config = ConfigDict({"data_preprocessor": preprocessor, **model.student})
    student = MODELS.build(student_config)
    student.load_state_dict(distiller.student.state_dict())  # what a detector proposes, and so its time, hangs on them
    size, classes = distiller.input_size, _num_classes(distiller)
    batch = noise_batch(distiller.task, batch_size, size, classes, device)
    parts = {STUDENT: _training_step(student.to(**place), config, batch)}
    views = [
        (_to_deepest_tap(teacher, one.to(**place), distiller), _view(teacher, distiller, batch))
        for name, teacher in distiller.teachers.items()
        for one in [_plain(model.teacher.get(name, {"config": student_config}))]
    ]
    autocast = functools.partial(_forward, wrapper=config.optim_wrapper, amp=device if amp else None)
    parts[TEACHER] = autocast(views)
    inputs = distiller.data_preprocessor(batch, True)["inputs"]
    parts[OBSERVED] = autocast([(teacher.observe, inputs) for teacher in distiller.teachers.values()])
    parts[DISTILLATION] = _training_step(distiller, config, batch)
    for name in distiller.losses if terms else ():
        less = copy.deepcopy(model)
        less.recipe.losses.pop(name)
        rest = _distiller(less, place)
        rest.student.load_state_dict(distiller.student.state_dict())
        parts[WITHOUT + name] = _training_step(rest, config, batch)
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
        if isinstance(teacher, EMATeacher):
            teacher.start(distiller.student, distiller.objective.exits)
    distiller.to(**place)
    skip_preparation(distiller)
    return distiller


def _num_classes(distiller: Distiller) -> int:
    head: Any = getattr(distiller.student, "head", None)
    classes = distiller.num_classes.get("student") or getattr(head, "num_classes", None)
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
    return teacher.preprocess(distiller.data_preprocessor(batch, True)["inputs"]).float().contiguous()


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
    monitor = model.monitor = LossMonitor()

    def step() -> None:
        monitor.iteration += 1
        monitor.report = monitor.iteration % LOG_INTERVAL == 0
        model.train_step(batch, wrapper)

    return step
