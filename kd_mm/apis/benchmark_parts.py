"""What the benchmark times, on batches of noise: plain student, plain teacher, the distillation and its terms."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import Tensor, nn

from kd_mm.apis.stages import random_teacher_configs
from kd_mm.distillers import Distiller, Teacher
from kd_mm.distillers.loss_monitor import LossMonitor
from kd_mm.hooks.ema_teacher import ema_teachers
from kd_mm.preparation import skip_preparation
from kd_mm.registry import MODELS
from kd_mm.utils.channels import input_channels
from kd_mm.utils.config import build_network

STUDENT, TEACHER, OBSERVED = "student step", "teacher forward", "teacher observed"
DISTILLATION, WITHOUT = "distillation step", "without "
#: Iterations between two reads of the loss terms, the engine's default logging interval.
LOG_INTERVAL = 10
#: Objects in each image of noise.
NUM_OBJECTS = 8


def build_parts(
    config: Config, layout: dict[str, Any], amp: bool, batch_size: int, terms: bool, compiled: bool = False
) -> tuple[dict[str, Callable[[], Any]], tuple[int, int]]:
    """Build everything and return what is to be timed by name, and the input size.

    Args:
        config: A distillation config; its parts are used.
        layout: Keywords of ``Module.to``: device and memory format.
        amp: Whether the teacher's forward runs under autocast, too; the steps have it from their optimizer wrapper.
        batch_size: Images a step.
        terms: Whether there are steps without each loss.
        compiled: Whether every part is compiled.
    """
    preprocessor = config.get("data_preprocessor")
    model = without_files(config.model)
    if preprocessor is not None:
        model.setdefault("data_preprocessor", preprocessor)
    compile_part: Callable[[Any], Any] = lambda part: part  # noqa: E731
    if compiled:
        model.compile = {"teacher": True, "objective": True, "backend": "inductor", **(model.get("compile") or {})}
        compile_part = functools.partial(torch.compile, backend=model.compile.backend)
    device, distiller = layout["device"], _distiller(model, layout)
    student_config = ConfigDict({"data_preprocessor": preprocessor, **model.student})
    student: Any = MODELS.build(student_config)
    student.load_state_dict(distiller.student.state_dict())  # the time of a detector depends on what it proposes
    size, classes = distiller.input_size, _num_classes(distiller)
    batch = _noise_batch(distiller.task.name, batch_size, size, input_channels(distiller.student), classes, device)
    optimizer = _frozen_optimizer(student.to(**layout), config)
    parts: dict[str, Callable[[], Any]] = {
        STUDENT: functools.partial(compile_part(student.train_step), batch, optimizer)
    }
    inputs = distiller.data_preprocessor(batch, True)["inputs"]
    plain_calls = []
    for name, teacher in distiller.teachers.items():
        plain = build_network(model.teacher.get(name, {"config": student_config})["config"])
        plain.requires_grad_(False).eval().to(**layout)
        # It gets what upstream would give it, whatever dtype and memory format the distillation chose.
        prepared = teacher.preprocess(inputs).float().contiguous()
        plain_calls.append((compile_part(_to_deepest_tap(teacher, plain, distiller)), prepared))
    observed_calls = [(teacher.observe, inputs) for teacher in distiller.teachers.values()]
    dtype = torch.float16 if config.optim_wrapper.get("type") == "AmpOptimWrapper" else torch.bfloat16
    for part, calls in ((TEACHER, plain_calls), (OBSERVED, observed_calls)):
        autocast = torch.autocast(device, dtype=dtype, enabled=amp)
        parts[part] = functools.partial(_forward, calls, autocast)
    parts[DISTILLATION] = _distillation_step(distiller, config, batch, compile_part)
    for name in distiller.losses if terms else ():
        less = copy.deepcopy(model)
        less.recipe.losses.pop(name)
        rest = _distiller(less, layout)
        rest.student.load_state_dict(distiller.student.state_dict())
        parts[WITHOUT + name] = _distillation_step(rest, config, batch, compile_part)
    return parts, size


def without_files(config: ConfigDict) -> ConfigDict:
    """Return a model config in which every network starts from random weights."""
    config = copy.deepcopy(config)
    config.teacher = random_teacher_configs(config)
    if config.get("recipe", {}).get("teacher_exits", {}).get("mode") == "joint":
        config.recipe.teacher_exits.mode = "pretrained"
    return config


def _distiller(config: ConfigDict, layout: dict[str, Any]) -> Distiller:
    distiller: Distiller = MODELS.build(config)
    for teacher in ema_teachers(distiller).values():
        teacher.start(distiller.student, distiller.objective.exits)
    distiller.to(**layout)
    skip_preparation(distiller)
    return distiller


def _num_classes(distiller: Distiller) -> int:
    classes = distiller.class_counts.get("student")
    if classes is None:
        name = type(distiller.student).__name__
        raise ValueError(f"the benchmark makes batches for classifiers; {name} has no class count")
    return classes


def _to_deepest_tap(teacher: Teacher, plain: nn.Module, distiller: Distiller) -> Callable[[Tensor], Any]:
    """Return what runs a plain teacher as deep as the teacher is read; a classifier to its logits in any case."""
    assert teacher.recorder is not None
    paths = {tap.path.partition(".")[0] for tap in teacher.recorder.taps.values()}
    if not distiller.task.comparable_logits and paths == {"backbone"}:
        return plain.backbone  # type: ignore[return-value]
    if not distiller.task.comparable_logits and paths <= {"backbone", "neck"}:
        return functools.partial(distiller.task.forward_features, plain)
    return functools.partial(distiller.task.forward, plain)


@torch.no_grad()
def _forward(calls: Sequence[tuple[Callable[[Tensor], Any], Tensor]], autocast: torch.autocast) -> None:
    with autocast:
        for network, inputs in calls:
            network(inputs)


def _distillation_step(
    distiller: Distiller, config: Config, batch: dict[str, Any], compile_part: Callable[[Any], Any]
) -> Callable[[], Any]:
    train_step = compile_part(distiller.train_step)
    wrapper = _frozen_optimizer(distiller, config)
    distiller.store_teachers(wrapper)
    monitor = distiller.monitor = LossMonitor()

    def step() -> None:
        monitor.iteration += 1
        monitor.report = monitor.iteration % LOG_INTERVAL == 0
        train_step(batch, wrapper)

    return step


def _frozen_optimizer(model: nn.Module, config: Config) -> OptimWrapper:
    wrapper: OptimWrapper = build_optim_wrapper(model, copy.deepcopy(config.optim_wrapper))
    for group in wrapper.param_groups:
        group["lr"] = 0.0
    model.train()
    return wrapper


def _noise_batch(
    task: str, batch_size: int, size: tuple[int, int], channels: int, classes: int, device: str
) -> dict[str, Any]:
    """Return a batch of noise as a data loader returns it, already on the device."""
    images = torch.randint(0, 256, (batch_size, channels, *size), dtype=torch.uint8, device=device)
    if task == "detection":
        samples = [_scene(size, classes).to(device) for _ in range(batch_size)]
        return {"inputs": list(images), "data_samples": samples}
    from mmpretrain.structures import DataSample

    labels = torch.randint(0, classes, (batch_size,)).tolist()
    samples = [DataSample(metainfo={"sample_idx": number}).set_gt_label(one) for number, one in enumerate(labels)]
    return {"inputs": images, "data_samples": [sample.to(device) for sample in samples]}


def _scene(size: tuple[int, int], classes: int) -> Any:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    height, width = size
    corners = torch.rand(NUM_OBJECTS, 2) * 0.6
    boxes = torch.cat([corners, corners + 0.1 + 0.3 * torch.rand(NUM_OBJECTS, 2)], dim=1)
    boxes = boxes * boxes.new_tensor([width, height, width, height])
    meta = {"img_shape": size, "ori_shape": size, "pad_shape": size, "scale_factor": (1.0, 1.0)}
    sample = DetDataSample(metainfo={**meta, "batch_input_shape": size})
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.randint(0, classes, (NUM_OBJECTS,)))
    return sample
