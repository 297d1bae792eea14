"""What ``tools/stages.py`` prints: stages of student and teachers, their pairing, every module that can be tapped.

Networks are built with random weights, so no checkpoint is needed.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from kd_mm.apis.evaluate import plain_config
from kd_mm.checks.config import check_config
from kd_mm.distillers import Teacher
from kd_mm.distillers.builder import Networks, teacher_configs
from kd_mm.distillers.matching import dry_run_size
from kd_mm.distillers.recipe import Recipe
from kd_mm.stages.discovery import discover_stages
from kd_mm.stages.stage import Stage, aligned, pair_stages, stage_table
from kd_mm.stages.tap import child
from kd_mm.tasks import Task, build_task
from kd_mm.utils.channels import explained_channels, input_channels
from kd_mm.utils.config import build_network, innermost_dataset, is_distillation
from kd_mm.utils.contexts import eval_mode

# Side of the images of data sets that come in one size; longer names first, as they are searched for.
_IMAGE_SIDES = (("TinyImageNet", 64), ("CIFAR100", 32), ("CIFAR10", 32), ("MNIST", 28))
# Transforms that fix a size, by the order in which they take a pair of sides.
_WIDTH_FIRST = ("Resize", "CenterCrop")
_HEIGHT_FIRST = ("RandomCrop", "RandomResizedCrop", "EfficientNetCenterCrop")


def config_input_size(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return height and width in pixels of the images of an evaluation, or ``None`` where the config fixes no size.

    The last transform of the test pipeline that fixes a size counts; else the data set, where its images have one size.
    """
    for key in ("test_dataloader", "val_dataloader", "train_dataloader"):
        dataset = innermost_dataset((config.get(key) or {}).get("dataset") or {})
        for step in reversed(dataset.get("pipeline") or []):
            size = _fixed_size(step)
            if size is not None:
                return size
        kind = str(dataset.get("type", ""))
        side = next((side for name, side in _IMAGE_SIDES if name in kind), None)
        if side is not None:
            return side, side
    return None


def _fixed_size(step: Mapping[str, Any]) -> tuple[int, int] | None:
    kind = str(step.get("type", "")).rpartition(".")[2]
    size = step.get("crop_size", step.get("scale"))
    sides = [size, size] if isinstance(size, int) else size
    fixed = isinstance(sides, list | tuple) and len(sides) == 2 and all(isinstance(n, int) and n > 0 for n in sides)
    if not fixed or kind not in (*_WIDTH_FIRST, *_HEIGHT_FIRST):
        return None
    return (sides[1], sides[0]) if kind in _WIDTH_FIRST else (sides[0], sides[1])


def stage_sections(config: Config, input_size: tuple[int, int] | None = None) -> Iterator[str]:
    """Yield the stage table of the student, of each teacher, and the pairing, one text each.

    Args:
        config: A distillation config, or a plain one, which has one table.
        input_size: Height and width in pixels; default: the Distiller's ``input_size``, else from the test pipeline,
            else the backbone's ``img_size``, else 224.

    Raises:
        ValueError: No stages found, a named stage that does not exist, stages that cannot be paired, or a network that
            takes other channels than the mean of its data preprocessor has.
    """
    settings = config.model if is_distillation(config) else {}
    student = build_student(config)
    recipe = Recipe.read(settings.get("recipe"))
    task = build_task(settings.get("task"), student)
    task.setup(student, recipe.exit_type.output)
    size = _size(config, student, input_size)
    inputs = torch.zeros(2, input_channels(student), *size)
    named = settings.get("stages")
    student_stages = _stages(student, inputs, task, named, "student")
    yield f"{_title('student' if settings else 'network', student, inputs)}\n{stage_table(student_stages)}"
    teacher_options = random_teacher_configs(config.model)
    teachers = {name: Teacher(name, **options) for name, options in teacher_options.items()}
    teacher_stages = {}
    for name, teacher in teachers.items():
        prepared = _teacher_inputs(teacher, inputs)
        side = name if isinstance(named, Mapping) and name in named else "teacher"
        teacher_stages[name] = _stages(teacher.model, prepared, task, named, side)
        yield f"{_title(f'teacher {name!r}', teacher.model, prepared)}\n{stage_table(teacher_stages[name])}"
    if not teachers:
        return
    networks = Networks(student, task, recipe, teacher_options, named, size, seed=0)
    for name in teachers:
        title, pairs = f"pairing with teacher {name!r}", networks.pairs.get(name)
        if pairs is None:
            title = f"no loss reads the stages of teacher {name!r}; a loss that does would pair them so"
            pairs = pair_stages(student_stages, teacher_stages[name], recipe.stage_align)
        with_exits = networks.exit_pairs.get(name, pairs)
        for label, listed in (("", pairs), ("exits, ", with_exits if with_exits != pairs else ())):
            rows = [(str(own.index), _describe(own), _describe(other)) for own, other in listed]
            if rows:
                yield f"{label}{title} ({recipe.stage_align})\n{aligned([('#', 'student', 'teacher'), *rows])}"


def module_sections(config: Config, input_size: tuple[int, int] | None = None) -> Iterator[str]:
    """Yield, for the student and each teacher, every module that runs: what a tap may name, type, calls and output.

    Args:
        config: A distillation config, or a plain one.
        input_size: As for :func:`stage_sections`.
    """
    student = build_student(config)
    inputs = torch.zeros(2, input_channels(student), *_size(config, student, input_size))
    yield _modules("student" if is_distillation(config) else "network", student, inputs)
    for name, options in random_teacher_configs(config.model).items():
        teacher = Teacher(name, **options)
        yield _modules(f"teacher {name!r}", teacher.model, _teacher_inputs(teacher, inputs))


def build_student(config: Config) -> nn.Module:
    """Return the network of a plain config or the student of a distillation config, with random weights."""
    plain = plain_config(config)
    check_config(plain, ["model"])
    return build_network(plain)


def random_teacher_configs(model: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the configs of a model's teachers by name, with random weights."""
    options = {"checkpoint": None, "random_weights": True}
    return {name: {**teacher, **options} for name, teacher in teacher_configs(model.get("teacher")).items()}


def _size(config: Config, student: nn.Module, given: tuple[int, int] | None) -> tuple[int, int]:
    own = config.model.get("input_size") if is_distillation(config) else None
    return dry_run_size(student, given or own or config_input_size(config), 224)


def _teacher_inputs(teacher: Teacher, inputs: Tensor) -> Tensor:
    """Return images of the teacher's own channels, of which a student of grey images has one."""
    return torch.zeros(2, input_channels(teacher.model), *teacher.preprocess(inputs).shape[2:])


def _stages(model: nn.Module, inputs: Tensor, task: Task, named: Any, side: str) -> list[Stage]:
    names: Sequence[str] | None = named.get(side) if isinstance(named, Mapping) else named
    with explained_channels():
        return discover_stages(model, inputs, names=names, backbone=task.trunk(model), forward=task.forward_features)


def _title(role: str, model: nn.Module, inputs: Tensor) -> str:
    trunk: Any = child(model, "backbone") or model
    params = sum(parameter.numel() for parameter in model.parameters())
    size = " x ".join(str(side) for side in inputs.shape[1:])
    return f"{role}: {type(model).__name__} with {type(trunk).__name__}, {params:,} parameters, input {size}"


def _describe(stage: Stage) -> str:
    return f"{stage.tap}  {stage.channels} x {stage.height} x {stage.width}"


def _modules(role: str, model: nn.Module, inputs: Tensor) -> str:
    names = {module: name for name, module in model.named_modules() if name}
    outputs: dict[str, list[str]] = {name: [] for name in names.values()}

    def record(module: nn.Module, args: Any, output: Any) -> None:
        outputs[names[module]].append(_shape(output))

    note, handles = "", [module.register_forward_hook(record) for module in names]
    try:
        with eval_mode(model):
            model(inputs, mode="tensor")
    except Exception as error:  # heads that want annotations fail in many ways; backbone and neck still ran
        reason = " ".join(str(error).split())[:120]
        note = f"\nwhat comes after the last row needs annotations to run ({type(error).__name__}: {reason})"
    finally:
        for handle in handles:
            handle.remove()
    rows = [("tap", "type", "calls", "output")]
    for module, name in names.items():
        if recorded := outputs[name]:
            rows.append((name, type(module).__name__, str(len(recorded)), recorded[-1]))
    return f"{_title(role, model, inputs)}\n{aligned(rows)}{note}"


def _shape(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"({', '.join(['B', *(str(side) for side in output.shape[1:])])})" if output.ndim else "()"
    if isinstance(output, list | tuple):
        return "[" + ", ".join(_shape(item) for item in output) + "]"
    return type(output).__name__
