"""Construction of a Distiller's parts: teachers, stages, taps; then exits and connectors of measured widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.distillers.match import dry_run_size, match_stages
from kd_mm.distillers.measure import check_classes, check_pixels, dry_run
from kd_mm.distillers.recipe import Plan, Recipe, reads_stages
from kd_mm.distillers.renormalize import Renormalize
from kd_mm.distillers.teacher import Teacher
from kd_mm.losses import Loss, LossContext
from kd_mm.models.exits import Exit, chains
from kd_mm.registry import MODELS
from kd_mm.stages.folding import fold_chain
from kd_mm.stages.recorder import Recorder
from kd_mm.stages.stage import Stage
from kd_mm.stages.tap import Tap, find_module
from kd_mm.tasks import Answer, Task
from kd_mm.utils.eval_mode import eval_mode
from kd_mm.utils.random_state import isolated_rng
from kd_mm.utils.suggest import check_options


@dataclass(frozen=True)
class Taps:
    """Where things are read: stages by number, answers by teacher; ``None`` where no loss reads an answer."""

    student_stages: Mapping[int, Stage]
    student_answer: Answer | None
    teacher_answer: Mapping[str, Answer | None]


@dataclass
class Networks:
    """Student and teachers, measured."""

    student: nn.Module
    losses: dict[str, Loss]
    teachers: dict[str, Teacher]
    pairs: dict[str, list[tuple[Stage, Stage]]]
    matched: list[Stage]
    plan: Plan
    taps: Taps
    recorder: Recorder
    input_size: tuple[int, int]
    #: Whether teachers can answer only after the student has run, on the regions that it looked at.
    late: bool = False
    num_classes: dict[str, int] = field(default_factory=dict)
    shown: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    #: What makes a teacher's answer of a map of its last stage, where a loss reads it.
    tails: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    #: Shape of the student's own answer, where a loss reads it.
    answer: tuple[int, ...] = ()


def build_networks(
    student: nn.Module,
    task: Task,
    recipe: Recipe,
    teacher: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
    stages: Sequence[str] | Mapping[str, Sequence[str]] | None,
    input_size: int | tuple[int, int] | None,
    seed: int,
) -> Networks:
    """Build the teachers, find and pair the stages, install the recorders, and measure everything in one dry run each.

    Raises:
        ValueError: Class counts that differ where a loss compares responses, stages that do not fit, and so on.
    """
    configs = teacher_configs(teacher)
    twice = sorted(set(configs) & set(recipe.teachers))
    if twice:
        raise ValueError(f"teacher {twice[0]!r} of the config has the name of one that the recipe brings; rename it")
    losses = recipe.build_losses(list(configs), seed)
    task.check_losses(losses)
    used = {name for loss in losses.values() if loss.needs_teacher for name in loss.teacher_names}
    teachers = {}
    device = next((parameter.device for parameter in student.parameters()), torch.device("cpu"))
    for name in sorted(used):
        with isolated_rng(f"teacher/{name}", seed):
            teachers[name] = _teacher(name, configs, recipe, student)
            teachers[name].model.to(device)
            teachers[name].renormalize = Renormalize(student, teachers[name].model)
    _check_followers(losses, teachers)
    with isolated_rng("dry run", seed):
        inputs = torch.rand(2, 3, *dry_run_size(student, input_size, task.default_size)) * 2 - 1
        inputs = inputs.to(device)
        pairs, matched = (
            match_stages(student, teachers, task, recipe, stages, inputs) if reads_stages(losses) else ({}, [])
        )
        for loss in losses.values():
            loss.match(pairs.get(loss.teacher_names[0] if loss.teacher_names else "", ()), bool(recipe.exit_on_last))
        plan = Plan.of(losses, len(matched), bool(recipe.exit_on_last), task.answer_is_response)
        answers = {n: task.answer(t.model, False) if plan.teacher_answer.get(n) else None for n, t in teachers.items()}
        own_answer = task.answer(student, True) if plan.student_answer else None
        own = {i: matched[i - 1] for i in sorted(plan.student_features)}
        taps = Taps(own, own_answer, answers)
        extra = list(task.extra_taps(student)) if plan.student_exits else []
        asked: dict[str, list[str]] = {name: [] for name in teachers}
        for loss in losses.values():
            teacher_name = loss.teacher_names[0] if loss.teacher_names else ""
            known = teacher_name in teachers
            mine, theirs = loss.extra_taps(student, teachers[teacher_name].model if known else nn.Identity())
            extra += mine
            asked.get(teacher_name, []).extend(theirs)
        recorder = Recorder(student, [*(s.tap for s in own.values()), *(own_answer.taps if own_answer else ()), *extra])
        networks = Networks(
            student, losses, teachers, pairs, matched, plan, taps, recorder, (inputs.shape[-2], inputs.shape[-1])
        )
        late = [answer for answer in answers.values() if answer and answer.late]
        networks.late = bool(late) or (task.late and bool(plan.student_exits))
        if networks.late or (task.regional and plan.student_exits):
            check_pixels(teachers)
        dry_run(networks, task, inputs, asked)
    check_classes(networks, task)
    return networks


def _teacher(name: str, configs: Mapping[str, Any], recipe: Recipe, student: nn.Module) -> Teacher:
    if name in configs:
        check_options(Teacher, configs[name], f"teacher {name!r}")
        return Teacher(name, **configs[name])
    config = dict(recipe.teachers[name])
    kind: Any = MODELS.get(config.pop("type"))
    check_options(kind, config, f"teacher {name!r}")
    own: Teacher = kind(name, student, **config)
    return own


def _check_followers(losses: Mapping[str, Loss], teachers: Mapping[str, Teacher]) -> None:
    for name, loss in losses.items():
        following = [teacher for teacher in loss.teacher_names if teachers[teacher].follows]
        if loss.frozen_teacher and following:
            raise ValueError(
                f"loss {name!r}: {type(loss).__name__} prepares something on a teacher that stays as it is, and "
                f"{following[0]!r} follows the student; take a loss on logits or maps (kd_mm.KDLoss, kd_mm.FitNetsLoss)"
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


def build_parts(networks: Networks, task: Task, recipe: Recipe, seed: int) -> dict[str, nn.ModuleDict]:
    """Build exits, connectors and trainable losses, each under a random state of its own name."""
    plan = networks.plan
    classes = next(iter(networks.num_classes.values()), 0)
    width = task.exit_width(classes)
    for name, loss in networks.losses.items():
        with isolated_rng(f"loss/{name}/parts", seed):
            loss.setup(_setting(networks, task, loss.teacher_names, classes))
    exits = _build_exits(
        networks.student, networks.matched, plan.student_exits, networks.shown[""], recipe, width, "student", seed
    )
    connectors, online = nn.ModuleDict(), nn.ModuleDict()
    for name, teacher in networks.teachers.items():
        theirs = [pair[1] for pair in networks.pairs.get(name, [])]
        stages = plan.teacher_exits[name]
        built = _build_exits(teacher.model, theirs, stages, networks.shown[name], recipe, width, name, seed)
        _place_teacher_exits(teacher, built, recipe, online)
        mine = nn.ModuleDict()
        for i in sorted(plan.connectors[name]):
            with isolated_rng(f"connector/{name}/{i}", seed):
                student_stage, teacher_stage = networks.pairs[name][i - 1]
                mine[str(i)] = _initialised({**recipe.connectors, "student": student_stage, "teacher": teacher_stage})
        if len(mine):
            connectors[name] = mine
    networks.shown.clear()
    trainable = {name: loss for name, loss in networks.losses.items() if list(loss.parameters())}
    return {
        "exits": exits,
        "connectors": connectors,
        "teacher_exits": online,
        "losses": nn.ModuleDict(trainable),
    }


def _setting(networks: Networks, task: Task, teachers: Sequence[str], classes: int) -> LossContext:
    teacher = teachers[0] if teachers else ""
    shapes = {
        name: {tap: tuple(tensor.shape) for tap, tensor in shown.items()} for name, shown in networks.shown.items()
    }
    pairs = networks.pairs.get(teacher, ())
    return LossContext(
        pairs,
        networks.pairs,
        classes,
        task.multilabel,
        shapes[""],
        shapes.get(teacher, {}),
        networks.answer,
        partial(task.exit_loss, networks.student),
    )


def _place_teacher_exits(teacher: Teacher, built: nn.ModuleDict, recipe: Recipe, online: nn.ModuleDict) -> None:
    mode = recipe.teacher_exits.get("mode", "pretrained")
    if teacher.follows:
        teacher.exits, teacher.exits_ready = built.requires_grad_(False).eval(), True
        return
    if mode == "online" and len(built):
        online[teacher.name] = built
        teacher.exits_ready = True  # nothing to prepare before training
        return
    teacher.exits = built.requires_grad_(False).eval()
    for layers in built.values() if teacher.folds else ():
        fold_chain(layers.body)  # type: ignore[arg-type]
    teacher.exits_ready = not len(built)
    if mode == "joint" and len(built):
        teacher.load_exits(teacher.stored_exits(), f"joint training in {teacher.checkpoint}")
    teacher.forget_file()


def _build_exits(
    model: nn.Module,
    stages: Sequence[Stage],
    wanted: frozenset[int],
    shown: Mapping[str, Tensor],
    recipe: Recipe,
    num_classes: int,
    side: str,
    seed: int,
) -> nn.ModuleDict:
    exits = nn.ModuleDict()
    exit_type: type[Exit] | None = MODELS.get(recipe.exits["type"])
    for i in sorted(wanted):
        config: dict[str, Any] = {**recipe.exits, "num_classes": num_classes}
        config["widths"] = [stage.channels for stage in stages[i - 1 :]]
        if exit_type is not None and getattr(exit_type, "needs_rest", False):
            config["rest"] = _rest(model, stages[i - 1 :], shown)
        if exit_type is not None and getattr(exit_type, "regional", False):
            config["stride"] = stages[i - 1].stride
        with isolated_rng(f"exit/{side}/{i}", seed):
            exits[str(i)] = _initialised(config)
    return exits


def _rest(model: nn.Module, stages: Sequence[Stage], shown: Mapping[str, Tensor]) -> list[nn.Module]:
    rest = [find_module(model, Tap.parse(stage.tap)) for stage in stages[1:]]
    outputs = [shown[stage.tap] for stage in stages[1:] if stage.tap in shown]
    with eval_mode(model):
        whole = len(outputs) != len(rest) or chains(rest, shown[stages[0].tap], outputs)
    if not whole:
        raise ValueError(
            f"MirrorExit: the stages after {stages[0].tap} of {type(model).__name__} do not run one after the other "
            f"({', '.join(stage.tap for stage in stages[1:])}); name whole stages in stages=[...] or use SepConvExit"
        )
    return rest


def _initialised(config: dict[str, Any]) -> nn.Module:
    module = MODELS.build(config)
    module.init_weights()
    return module
