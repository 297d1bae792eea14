"""Construction of a Distiller's networks: teachers, matched stages, taps; all measured in one dry run each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from kd_mm.distillers.matching import Matches, dry_run_size, match_stages
from kd_mm.distillers.recipe import Recipe, reads_stages
from kd_mm.distillers.renormalize import Renormalize
from kd_mm.distillers.requirements import Requirements
from kd_mm.distillers.teacher import Teacher
from kd_mm.losses import Loss
from kd_mm.registry import MODELS
from kd_mm.stages.recorder import Recorder
from kd_mm.stages.stage import Stage
from kd_mm.tasks import LogitsReader, Task
from kd_mm.utils.channels import explained_channels, input_channels
from kd_mm.utils.contexts import eval_mode, isolated_rng
from kd_mm.utils.suggest import check_options

Pairs = Mapping[str, Sequence[tuple[Stage, Stage]]]


@dataclass(frozen=True)
class Networks:
    """Student and teachers, measured. Teachers, pairs and records are by the teacher's name.

    Attributes:
        losses: By name.
        teachers: Ready to run.
        pairs: Matched (student, teacher) stages whose maps can be compared.
        matched: The student's matched stages.
        exit_pairs: Matched (student, teacher) stages that can have exits; the same unless maps are those of necks.
        exit_stages: The student's stages that can have exits.
        requirements: What the losses read.
        recorder: Records the student.
        reader: How the student's own logits are read, where a loss reads them.
        input_size: Height and width of the dry run.
        student_records: Recorded tensors of the student in the dry run.
        teacher_records: Likewise of each teacher.
        logits: The networks' own logits in the dry run, where a loss reads them, by ``"student"`` or teacher.
        num_classes: K, where a network states it, likewise.
    """

    losses: Mapping[str, Loss]
    teachers: Mapping[str, Teacher]
    pairs: Pairs
    matched: Sequence[Stage]
    exit_pairs: Pairs
    exit_stages: Sequence[Stage]
    requirements: Requirements
    recorder: Recorder
    reader: LogitsReader | None
    input_size: tuple[int, int]
    student_records: Mapping[str, Tensor]
    teacher_records: Mapping[str, Mapping[str, Tensor]]
    logits: Mapping[str, Tensor]
    num_classes: Mapping[str, int]


def build_networks(
    student: nn.Module,
    task: Task,
    recipe: Recipe,
    teacher: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
    stages: Sequence[str] | Mapping[str, Sequence[str]] | None,
    input_size: int | tuple[int, int] | None,
    seed: int,
) -> Networks:
    """Build the teachers, find and match the stages, install the recorders, and measure everything in one dry run each.

    Raises:
        ValueError: Class counts that differ where a loss compares logits, stages that do not fit, and so on.
    """
    losses, teachers = _build_losses_and_teachers(student, task, recipe, teacher, seed)
    with isolated_rng("dry run", seed), explained_channels():
        size = dry_run_size(student, input_size, task.default_size)
        inputs = torch.rand(2, input_channels(student), *size) * 2 - 1
        inputs = inputs.to(_device(student))
        matches = with_exits = Matches()
        if reads_stages(losses):
            matches, with_exits = match_stages(student, teachers, task, recipe, stages, inputs)
        for loss in losses.values():
            read = with_exits if loss.reads_exits else matches
            loss.match(read.pairs.get(next(iter(loss.teacher_names), ""), ()), recipe.exit_on_last)
        counts = len(matches.student), len(with_exits.student)
        needs = Requirements.of(losses, *counts, recipe.exit_on_last, task.comparable_logits)
        student_taps, teacher_taps = _extra_taps(losses, student, teachers)
        reader = task.logits_reader(student, True) if needs.student.logits else None
        taps = [matches.student[i - 1].tap for i in needs.student_stages]
        taps += [with_exits.student[i - 1].tap for i in sorted(needs.student.exits)]
        taps += reader.taps if reader else ()
        recorder = Recorder(student, [*taps, *student_taps])
        with eval_mode(student), recorder:
            task.forward(student, inputs)
            recorder.calibrate()
        student_records, records = recorder.take(), {}
        for name, one in teachers.items():
            own, own_exits = ([pair[1] for pair in each.pairs.get(name, ())] for each in (matches, with_exits))
            _set_up_teacher(one, task, recipe, needs, own, own_exits, teacher_taps[name])
            with torch.no_grad(), one.recorder, one.precision(inputs.device):
                task.forward(one.model, one.preprocess(inputs))
                one.recorder.calibrate()
            records[name] = one.recorder.take()
        logits = _measured_logits(student, teachers, reader, task, student_records, records)
        _set_classifiers(losses, teachers, task, matches.pairs, records, logits)
    return Networks(
        losses=losses,
        teachers=teachers,
        pairs=matches.pairs,
        matched=matches.student,
        exit_pairs=with_exits.pairs,
        exit_stages=with_exits.student,
        requirements=needs,
        recorder=recorder,
        reader=reader,
        input_size=(int(inputs.shape[-2]), int(inputs.shape[-1])),
        student_records=student_records,
        teacher_records=records,
        logits=logits,
        num_classes=_count_classes(student, teachers, task, needs, logits),
    )


def teacher_configs(teacher: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """Return teacher configs by name: one teacher is a mapping of one.

    Raises:
        ValueError: Neither a teacher config, nor a list or a mapping of them.
    """
    if not teacher:
        return {}
    if isinstance(teacher, Mapping):
        if "config" in teacher:
            return {str(teacher.get("name", "teacher")): {k: v for k, v in teacher.items() if k != "name"}}
        if all(isinstance(value, Mapping) and "config" in value for value in teacher.values()):
            return {str(name): dict(value) for name, value in teacher.items()}
        raise ValueError(f"teacher={dict(teacher)!r}: give dict(config=..., checkpoint=...), or such dicts by name")
    named = [dict(config) for config in teacher]
    return {str(config.pop("name", f"teacher{i}")): config for i, config in enumerate(named, 1)}


def _build_losses_and_teachers(
    student: nn.Module, task: Task, recipe: Recipe, teacher: Any, seed: int
) -> tuple[dict[str, Loss], dict[str, Teacher]]:
    configs = teacher_configs(teacher)
    twice = sorted(set(configs) & set(recipe.teachers))
    if twice:
        raise ValueError(f"teacher {twice[0]!r} of the config has the name of one that the recipe brings; rename it")
    losses = recipe.build_losses(list(configs), seed)
    task.check_losses(losses)
    teachers = {}
    for name in sorted({name for loss in losses.values() for name in loss.teacher_names}):
        with isolated_rng(f"teacher/{name}", seed):
            built = teachers[name] = _build_teacher(name, configs, recipe, student)
            built.model.to(_device(student))
            channels = input_channels(student), input_channels(built.model)
            if channels[0] != channels[1] and not (channels[0] == 1 and built.repeat_grey):
                way = (
                    "repeat_grey=True in its config repeats the grey channel"
                    if channels[0] == 1
                    else "choose another one"
                )
                raise ValueError(
                    f"teacher {name!r} takes images of {channels[1]} channels, the student of {channels[0]}: {way}"
                )
            built.renormalize = Renormalize(student, built.model, channels[1])
    losses = _without_incomparable(losses, teachers, student, task)
    read = {name for loss in losses.values() for name in loss.teacher_names}
    teachers = {name: one for name, one in teachers.items() if name in read}
    for name, loss in losses.items():
        averages = [one for one in loss.teacher_names if teachers[one].is_ema]
        if loss.frozen_teacher and averages:
            raise ValueError(
                f"loss {name!r}: {type(loss).__name__} prepares something on a teacher that stays as it is, and "
                f"{averages[0]!r} follows the student; take a loss on logits or maps (kd_mm.KDLoss, kd_mm.FitNetsLoss)"
            )
    return losses, teachers


def _without_incomparable(
    losses: dict[str, Loss], teachers: Mapping[str, Teacher], student: nn.Module, task: Task
) -> dict[str, Loss]:
    kept = {}
    for name, loss in losses.items():
        models = [teachers[one].model for one in loss.teacher_names if loss.optional]
        reasons = [task.incomparable(student, one) or loss.incomparable(student, one) for one in models]
        if any(reasons):
            print_log(f"loss {name!r} is left out: {next(filter(None, reasons))}", logger="current")
        else:
            kept[name] = loss
    return kept


def _build_teacher(name: str, configs: Mapping[str, Any], recipe: Recipe, student: nn.Module) -> Teacher:
    if name in configs:
        check_options(Teacher, configs[name], f"teacher {name!r}")
        return Teacher(name, **configs[name])
    config = dict(recipe.teachers[name])
    kind: Any = MODELS.get(config.pop("type"))
    check_options(kind, config, f"teacher {name!r}")
    built: Teacher = kind(name, student, **config)
    return built


def _extra_taps(
    losses: Mapping[str, Loss], student: nn.Module, teachers: Mapping[str, Teacher]
) -> tuple[list[str], dict[str, list[str]]]:
    """Return the taps that losses name themselves: of the student, and of each teacher."""
    of_student: list[str] = []
    of_teachers: dict[str, list[str]] = {"": [], **{name: [] for name in teachers}}
    for loss in losses.values():
        name = next(iter(loss.teacher_names), "")
        own, other = loss.extra_taps(student, teachers[name].model if name else nn.Identity())
        of_student += own
        of_teachers[name] += other
    return of_student, of_teachers


def _set_up_teacher(
    teacher: Teacher,
    task: Task,
    recipe: Recipe,
    needs: Requirements,
    stages: Sequence[Stage],
    exit_stages: Sequence[Stage],
    taps: Sequence[str],
) -> None:
    reads = needs.teachers[teacher.name]
    reader = task.logits_reader(teacher.model, False) if reads.logits else None
    if reader is not None and reader.needs_regions and teacher.input_size:
        raise ValueError(
            f"teacher {teacher.name!r}: input_size resizes the batch, and losses on regions compare pixels; leave it "
            "out"
        )
    last = 0 if recipe.exit_on_last else len(exit_stages)
    teacher.setup(task, reads, stages, exit_stages, reader, last, taps, trained_exits=is_online(recipe, teacher))


def is_online(recipe: Recipe, teacher: Teacher) -> bool:
    """Return whether the exits of a teacher are trained during the distillation."""
    return recipe.exit_mode == "online" and not teacher.is_ema


@torch.no_grad()
def _measured_logits(
    student: nn.Module,
    teachers: Mapping[str, Teacher],
    reader: LogitsReader | None,
    task: Task,
    student_records: Mapping[str, Tensor],
    records: Mapping[str, Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """Return the networks' own logits in the dry run, and check that student and teachers can be compared."""
    logits = {} if reader is None else {"student": reader.read(student_records)}
    own = logits.get("student")
    batch = task.batch(student, torch.empty(2), [], student_records, ())
    for name, teacher in teachers.items():
        if teacher.reader is None:
            continue
        if reader is not None and reader.unit != teacher.reader.unit:
            raise ValueError(
                f"the student has one row of logits a {reader.unit}, teacher {name!r} one a {teacher.reader.unit}, "
                "which cannot be compared: use losses on stages (mtkd_ssr, pkd, cwd, fgd)"
            )
        other = logits[name] = teacher.reader.read(records[name], teacher.model, batch.sampled)
        if own is not None and own.ndim == other.ndim == 3 and own.shape[1:] != other.shape[1:]:
            raise ValueError(
                f"the student has logits at {own.shape[1]} grid positions over {own.shape[2]} classes, teacher "
                f"{name!r} at {other.shape[1]} over {other.shape[2]}: losses on dense logits need equal strides, "
                "anchors and classes; use losses on stages"
            )
    return logits


@torch.no_grad()
def _set_classifiers(
    losses: Mapping[str, Loss],
    teachers: Mapping[str, Teacher],
    task: Task,
    pairs: Pairs,
    records: Mapping[str, Mapping[str, Tensor]],
    logits: Mapping[str, Tensor],
) -> None:
    """Find what follows the last stage of each teacher whose classifier a loss reads, and check that it does."""
    readers = [loss for loss in losses.values() if "teacher.classifier" in loss.requires]
    for name in sorted({name for loss in readers for name in loss.teacher_names}):
        teacher, stage = teachers[name], pairs[name][-1][1]
        classifier = task.classifier(teacher.model)
        if not _gives(classifier, stage.to_map(records[name][stage.tap]), logits[name]):
            raise ValueError(
                f"the neck and head of teacher {name!r} do not turn its last stage, {stage.tap}, into its logits: "
                f"name the last module of its backbone in stages=dict({name}=[...]), or leave out the loss that "
                "reads the teachers' classifiers (kd_mm.MultiTeacherFeatureLoss has weights='mean' as well)"
            )
        teacher.classifier = classifier


def _gives(classifier: Callable[[Tensor], Tensor], feature: Tensor, expected: Tensor) -> bool:
    try:
        found = classifier(feature)
    except RuntimeError:  # another width
        return False
    tolerance = 0.02 if expected.dtype.itemsize == 2 else 1e-3  # a teacher in half precision rounds its own logits
    return torch.allclose(found, expected.to(found), rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def _count_classes(
    student: nn.Module, teachers: Mapping[str, Teacher], task: Task, needs: Requirements, logits: Mapping[str, Tensor]
) -> dict[str, int]:
    """Return over how many classes each network's logits are, where that matters, and check that they agree."""
    own = task.num_classes(student, logits.get("student"))
    counts = {} if own is None else {"student": own}
    for name, teacher in teachers.items():
        count = task.num_classes(teacher.model, logits.get(name))
        if count is None or not (name in logits or needs.teachers[name].exits):
            continue
        counts[name] = count
        if own is not None and own != count:
            raise ValueError(
                f"the student has {own} classes, teacher {name!r} has {count}: losses on logits need one "
                f"class list; take a teacher of the same classes, or only {task.free_losses}"
            )
    return counts


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
