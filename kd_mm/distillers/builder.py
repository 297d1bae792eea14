"""Construction of a Distiller's parts: teachers, stages, taps; then exits, connectors and losses of measured widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.distillers.matching import dry_run_size, match_stages
from kd_mm.distillers.objective import Objective
from kd_mm.distillers.recipe import Recipe, Requirements, exit_type, reads_stages
from kd_mm.distillers.renormalize import Renormalize
from kd_mm.distillers.teacher import Teacher, TeacherReads
from kd_mm.losses import LearningSimplifier, Loss, LossContext
from kd_mm.losses.mtkd_ssr import TeacherExitLoss
from kd_mm.models.exits import is_sequential
from kd_mm.registry import MODELS
from kd_mm.stages.recorder import Recorder
from kd_mm.stages.stage import Stage
from kd_mm.stages.tap import Tap, find_module
from kd_mm.tasks import LogitsReader, Task
from kd_mm.utils.eval_mode import eval_mode
from kd_mm.utils.random_state import isolated_rng
from kd_mm.utils.suggest import check_options

Pairs = Mapping[str, Sequence[tuple[Stage, Stage]]]


@dataclass(frozen=True)
class Networks:
    """Student and teachers, measured.

    Attributes:
        losses: By name.
        teachers: By name, ready to run.
        pairs: Matched (student, teacher) stages by teacher.
        matched: The student's matched stages.
        requirements: What the losses read.
        recorder: Records the student.
        reader: How the student's own logits are read, where a loss reads them.
        input_size: Height and width of the dry run.
        student_records: Recorded tensors of the student in the dry run.
        teacher_records: Likewise of each teacher.
        logits: The networks' own logits in the dry run, where a loss reads them, ``"student"`` or teacher to tensor.
        num_classes: K, where a network states it, likewise.
    """

    losses: Mapping[str, Loss]
    teachers: Mapping[str, Teacher]
    pairs: Pairs
    matched: Sequence[Stage]
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
    with isolated_rng("dry run", seed):
        inputs = torch.rand(2, 3, *dry_run_size(student, input_size, task.default_size)) * 2 - 1
        inputs = inputs.to(_device(student))
        pairs, matched = (
            match_stages(student, teachers, task, recipe, stages, inputs) if reads_stages(losses) else ({}, [])
        )
        for loss in losses.values():
            loss.match(pairs.get(_first(loss.teacher_names), ()), recipe.exit_on_last)
        needs = Requirements.of(losses, len(matched), recipe.exit_on_last, task.answer_is_response)
        student_taps, teacher_taps = _extra_taps(losses, student, teachers)
        reader = task.logits_reader(student, True) if needs.student_logits else None
        recorder = Recorder(
            student,
            [
                *(matched[i - 1].tap for i in sorted(needs.student_stages)),
                *(reader.taps if reader else ()),
                *(task.extra_taps(student) if needs.student_exits else ()),
                *student_taps,
            ],
        )
        with eval_mode(student), recorder:
            task.forward(student, inputs)
            recorder.calibrate()
        student_records, records = recorder.take(), {}
        for name, one in teachers.items():
            reads = _teacher_reads(name, one, task, recipe, needs, [pair[1] for pair in pairs.get(name, ())])
            one.setup(replace(reads, taps=tuple(teacher_taps[name])), task)
            with torch.no_grad(), one.recorder:
                task.forward(one.model, one.preprocess(inputs))
                one.recorder.calibrate()
            records[name] = one.recorder.take()
        logits = _measured_logits(student, teachers, reader, task, student_records, records)
        _set_classifiers(losses, teachers, task, pairs, records, logits)
    num_classes = _count_classes(student, teachers, task, needs, logits)
    size = (int(inputs.shape[-2]), int(inputs.shape[-1]))
    return Networks(
        losses, teachers, pairs, matched, needs, recorder, reader, size, student_records, records, logits, num_classes
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
            teachers[name] = _build_teacher(name, configs, recipe, student)
            teachers[name].model.to(_device(student))
            teachers[name].renormalize = Renormalize(student, teachers[name].model)
    for name, loss in losses.items():
        averages = [one for one in loss.teacher_names if teachers[one].is_ema]
        if loss.frozen_teacher and averages:
            raise ValueError(
                f"loss {name!r}: {type(loss).__name__} prepares something on a teacher that stays as it is, and "
                f"{averages[0]!r} follows the student; take a loss on logits or maps (kd_mm.KDLoss, kd_mm.FitNetsLoss)"
            )
    return losses, teachers


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
    of_student: list[str] = []
    of_teachers: dict[str, list[str]] = {name: [] for name in teachers}
    for loss in losses.values():
        name = _first(loss.teacher_names)
        own, other = loss.extra_taps(student, teachers[name].model if name else nn.Identity())
        of_student += own
        if name:
            of_teachers[name] += other
    return of_student, of_teachers


def _teacher_reads(
    name: str, teacher: Teacher, task: Task, recipe: Recipe, needs: Requirements, stages: Sequence[Stage]
) -> TeacherReads:
    online = _online(recipe, teacher)
    exits = frozenset() if online else needs.teacher_exits[name]
    features = needs.features[name] | (needs.teacher_exits[name] if online else frozenset())
    reads = TeacherReads(
        stages={i: stages[i - 1] for i in sorted(exits | features | needs.pooled[name])},
        features=features,
        pooled=needs.pooled[name],
        exits=exits,
        reader=task.logits_reader(teacher.model, False) if name in needs.teacher_logits else None,
        last=0 if recipe.exit_on_last else len(stages),
        regional=task.regional,
    )
    regions = reads.needs_regions or (task.regional and bool(needs.teacher_exits[name]))
    if regions and teacher.input_size:
        raise ValueError(
            f"teacher {name!r}: input_size resizes the batch, and losses on regions compare pixels; leave it out"
        )
    return reads


def _online(recipe: Recipe, teacher: Teacher) -> bool:
    return recipe.teacher_exits.get("mode", "pretrained") == "online" and not teacher.is_ema


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
    with torch.no_grad():
        batch = task.batch(student, torch.empty(2), [], student_records, ())
        for name, teacher in teachers.items():
            other = teacher.reads.reader
            if other is None:
                continue
            if reader is not None and reader.unit != other.unit:
                raise ValueError(
                    f"the student has one row of logits a {reader.unit}, teacher {name!r} one a {other.unit}, which "
                    "cannot be compared: use losses on stages (mtkd_ssr, pkd, cwd, fgd)"
                )
            logits[name] = other.read(records[name], teacher.model, batch.sampled)
    own = logits.get("student")
    for name, other_logits in logits.items():
        if own is not None and own.ndim == other_logits.ndim == 3 and own.shape[1:] != other_logits.shape[1:]:
            raise ValueError(
                f"the student answers at {own.shape[1]} places over {own.shape[2]} classes, teacher {name!r} at "
                f"{other_logits.shape[1]} over {other_logits.shape[2]}: losses on dense answers need equal strides, "
                "anchors and classes; use losses on stages"
            )
    return logits


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
                f"the neck and head of teacher {name!r} do not make its answer of what its last stage {stage.tap} "
                f"shows: name the last module of its backbone in stages=dict({name}=[...]), or leave out the loss that "
                "reads the teachers' classifiers (kd_mm.MultiTeacherFeatureLoss has weights='mean' as well)"
            )
        teacher.reads = replace(teacher.reads, classifier=classifier)


@torch.no_grad()
def _gives(classifier: Callable[[Tensor], Tensor], feature: Tensor, expected: Tensor) -> bool:
    try:
        found = classifier(feature)
    except RuntimeError:  # another width
        return False
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def _count_classes(
    student: nn.Module, teachers: Mapping[str, Teacher], task: Task, needs: Requirements, logits: Mapping[str, Tensor]
) -> dict[str, int]:
    """Return over how many classes each network's logits are, where that matters, and check that they agree."""
    own = task.num_classes(student, logits.get("student"))
    counts = {} if own is None else {"student": own}
    for name, teacher in teachers.items():
        count = task.num_classes(teacher.model, logits.get(name))
        if count is None or not (name in logits or needs.teacher_exits[name]):
            continue
        counts[name] = count
        if own is not None and own != count:
            raise ValueError(
                f"the student answers over {own} classes, teacher {name!r} over {count}: losses on responses need one "
                f"class list; take a teacher of the same classes, or only {task.free_losses}"
            )
    return counts


# -- the objective ---------------------------------------------------------------------------------------------------


def build_objective(networks: Networks, student: nn.Module, task: Task, recipe: Recipe, seed: int) -> Objective:
    """Build exits, connectors and losses, each under a random state of its own name."""
    needs, losses = networks.requirements, dict(networks.losses)
    classes = next(iter(networks.num_classes.values()), 0)
    build_exits = partial(_build_exits, recipe=recipe, num_classes=task.exit_width(classes), seed=seed)
    transform = _build_adapters(networks, task, recipe, seed)
    exits = build_exits(student, networks.matched, needs.student_exits, networks.student_records, side="student")
    connectors, online = nn.ModuleDict(), nn.ModuleDict()
    for name, teacher in networks.teachers.items():
        stages = [pair[1] for pair in networks.pairs.get(name, ())]
        wanted = needs.teacher_exits[name]
        built = build_exits(teacher.model, stages, wanted, networks.teacher_records[name], side=name)
        if len(built) and _online(recipe, teacher):
            online[name] = built
            exit_loss = TeacherExitLoss(teacher=name, stages=sorted(wanted))
            exit_loss.choose_teachers(f"exits_of_{name}", [name])
            losses[f"exits_of_{name}"] = exit_loss
        _set_exits(teacher, nn.ModuleDict() if name in online else built, recipe)
        if needs.connectors[name]:
            connectors[name] = _build_connectors(name, networks.pairs[name], needs.connectors[name], recipe, seed)
    for name, loss in losses.items():
        with isolated_rng(f"loss/{name}/parts", seed):
            loss.setup(_loss_context(networks, student, task, loss, classes))
    extra = {"student.targets"} if any(adapter.needs_targets for adapter in transform.values()) else set()
    reads = frozenset(item for loss in losses.values() for item in loss.requires)
    return Objective(
        replace(needs, reads=reads | extra),
        losses,
        {i: networks.matched[i - 1] for i in sorted(needs.student_stages)},
        networks.reader,
        0 if recipe.exit_on_last else len(networks.matched),
        exits,
        connectors,
        online,
        transform,
    )


def _loss_context(networks: Networks, student: nn.Module, task: Task, loss: Loss, classes: int) -> LossContext:
    teacher = _first(loss.teacher_names)
    return LossContext(
        pairs=networks.pairs.get(teacher, ()),
        pairs_by_teacher=networks.pairs,
        num_classes=classes,
        multilabel=task.multilabel,
        student_taps=_shapes(networks.student_records),
        teacher_taps=_shapes(networks.teacher_records.get(teacher, {})),
        logits_shape=tuple(networks.logits["student"].shape) if "student" in networks.logits else (),
        task_loss=partial(task.exit_loss, student),
    )


def _set_exits(teacher: Teacher, exits: nn.ModuleDict, recipe: Recipe) -> None:
    teacher.exits = exits.requires_grad_(False).eval()
    teacher.exits_ready = teacher.is_ema or not len(exits)
    if recipe.teacher_exits.get("mode") == "joint" and len(exits) and not teacher.is_ema:
        teacher.load_exits(teacher.stored_exits(), f"joint training in {teacher.checkpoint}")
    teacher.forget_file()


def _build_exits(
    model: nn.Module,
    stages: Sequence[Stage],
    wanted: frozenset[int],
    records: Mapping[str, Tensor],
    recipe: Recipe,
    num_classes: int,
    side: str,
    seed: int,
) -> nn.ModuleDict:
    exits = nn.ModuleDict()
    kind = exit_type(recipe)
    for i in sorted(wanted):
        config: dict[str, Any] = {**recipe.exits, "num_classes": num_classes}
        config["widths"] = [stage.channels for stage in stages[i - 1 :]]
        if kind.needs_rest:
            config["rest"] = _rest(model, stages[i - 1 :], records)
        if kind.regional:
            config["stride"] = stages[i - 1].stride
        with isolated_rng(f"exit/{side}/{i}", seed):
            exits[str(i)] = _initialised(config)
    return exits


def _rest(model: nn.Module, stages: Sequence[Stage], records: Mapping[str, Tensor]) -> list[nn.Module]:
    rest = [find_module(model, Tap.parse(stage.tap)) for stage in stages[1:]]
    outputs = [records[stage.tap] for stage in stages[1:] if stage.tap in records]
    with eval_mode(model):
        sequential = len(outputs) != len(rest) or is_sequential(rest, records[stages[0].tap], outputs)
    if not sequential:
        raise ValueError(
            f"MirrorExit: the stages after {stages[0].tap} of {type(model).__name__} do not run one after the other "
            f"({', '.join(stage.tap for stage in stages[1:])}); name whole stages in stages=[...] or use SepConvExit"
        )
    return rest


def _build_connectors(
    name: str, pairs: Sequence[tuple[Stage, Stage]], wanted: frozenset[int], recipe: Recipe, seed: int
) -> nn.ModuleDict:
    connectors = nn.ModuleDict()
    for i in sorted(wanted):
        student, teacher = pairs[i - 1]
        with isolated_rng(f"connector/{name}/{i}", seed):
            connectors[str(i)] = _initialised({**recipe.connectors, "student": student, "teacher": teacher})
    return connectors


def _build_adapters(networks: Networks, task: Task, recipe: Recipe, seed: int) -> nn.ModuleDict:
    """Build the adapter of each teacher whose logits are read by losses that it serves.

    Raises:
        ValueError: No loss of the recipe reads a teacher's logits.
    """
    adapters = nn.ModuleDict()
    if not recipe.transform:
        return adapters
    classes, last = next(iter(networks.num_classes.values()), 0), 0 if recipe.exit_on_last else len(networks.matched)
    for name in networks.teachers:
        with isolated_rng(f"transform/{name}", seed):
            adapter: LearningSimplifier = MODELS.build(dict(recipe.transform))
            readers = [
                loss for key, loss in networks.losses.items() if name in loss.teacher_names and adapter.serves(key)
            ]
            names = {"final"} if any("teacher.logits" in loss.requires for loss in readers) else set()
            for loss in readers:
                if "teacher.stage_logits" in loss.requires:
                    stages = loss.stage_numbers(len(networks.matched))
                    names |= {"final" if i == last else f"stage{i}" for i in stages}
            if not names:
                continue
            logits = networks.logits.get(name)
            widths = dict.fromkeys(sorted(names), task.exit_width(classes))
            dense = False
            if "final" in names and logits is not None:
                widths["final"], dense = logits.shape[-1], logits.ndim == 3 and logits.shape[-1] == classes
            sigmoids = {one for one in names if (dense if one == "final" else task.multilabel)}
            labelled = task.answer_is_response and not task.regional and not task.multilabel
            adapter.setup(widths, frozenset(sigmoids), labelled, last)
        adapters[name] = adapter
    if networks.losses and not len(adapters):
        raise ValueError(
            f"recipe: transform {recipe.transform['type']} changes what a teacher answers, but none of the losses "
            f"{', '.join(networks.losses)} reads that; add one that does, e.g. the recipe kd, or drop it"
        )
    return adapters


def _initialised(config: dict[str, Any]) -> nn.Module:
    module = MODELS.build(config)
    module.init_weights()
    return module


def _shapes(records: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {tap: tuple(tensor.shape) for tap, tensor in records.items()}


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _first(names: Sequence[str]) -> str:
    return names[0] if names else ""
