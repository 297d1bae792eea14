"""Construction of a Distiller's parts: teachers, stages, taps; then exits and connectors of measured widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.distillers.normalization import Renormalize
from kd_mm.distillers.options import check_options
from kd_mm.distillers.random_state import private_random_state
from kd_mm.distillers.recipe import Plan, Recipe, reads_stages
from kd_mm.distillers.teacher import Teacher
from kd_mm.losses import Loss
from kd_mm.registry import MODELS
from kd_mm.stages.discovery import discover_stages
from kd_mm.stages.exits import Exit, chains
from kd_mm.stages.modes import evaluating
from kd_mm.stages.pairing import pair_stages
from kd_mm.stages.recorder import Recorder
from kd_mm.stages.stage import Stage
from kd_mm.stages.tap import Tap, find_module


@dataclass(frozen=True)
class Taps:
    """Where things are read. Stages by number, answers as tap texts."""

    student_stages: Mapping[int, Stage]
    student_answer: str
    teacher_answer: Mapping[str, str]


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
    num_classes: dict[str, int] = field(default_factory=dict)
    shown: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def build_networks(
    student: nn.Module,
    task: Any,
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
    losses = recipe.build_losses(list(configs), seed)
    used = {loss.teacher for loss in losses.values() if loss.needs_teacher}
    teachers = {}
    for name in sorted(name for name in configs if name in used):
        check_options(Teacher, configs[name], f"teacher {name!r}")
        with private_random_state(f"teacher/{name}", seed):
            teachers[name] = Teacher(name, **configs[name])
            teachers[name].renormalize = Renormalize(student, teachers[name].model)
    with private_random_state("dry run", seed):
        inputs = torch.rand(2, 3, *_size(student, input_size)) * 2 - 1
        device = next((parameter.device for parameter in student.parameters()), torch.device("cpu"))
        inputs = inputs.to(device)
        pairs, matched = _pair(student, teachers, task, recipe, stages, inputs) if reads_stages(losses) else ({}, [])
        plan = Plan.of(losses, len(matched), recipe.exit_on_last)
        answers = {name: task.answer_tap(t.model) for name, t in teachers.items() if plan.teacher_answer.get(name)}
        own_answer = task.answer_tap(student) if plan.student_answer else ""
        own = {i: matched[i - 1] for i in sorted(plan.student_features)}
        taps = Taps(own, own_answer, {name: answers.get(name, "") for name in teachers})
        recorder = Recorder(student, [*(s.tap for s in own.values()), *([own_answer] if own_answer else [])])
        networks = Networks(
            student, losses, teachers, pairs, matched, plan, taps, recorder, (inputs.shape[-2], inputs.shape[-1])
        )
        _dry_run(networks, task, inputs)
    _check_classes(networks)
    return networks


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


def _size(student: nn.Module, input_size: int | tuple[int, int] | None) -> tuple[int, int]:
    size = input_size or getattr(getattr(student, "backbone", None), "img_size", None) or 224
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _pair(
    student: nn.Module, teachers: dict[str, Teacher], task: Any, recipe: Recipe, stages: Any, inputs: Tensor
) -> tuple[dict[str, list[tuple[Stage, Stage]]], list[Stage]]:
    """Return the matched pairs by teacher and the student's matched stages, both counted from 1."""
    found = _discover("student", student, inputs, _names(stages, "student"), task)
    views = {name: teacher.see(inputs) for name, teacher in teachers.items()}
    theirs = {
        name: _discover(
            f"teacher {name!r}",
            teacher.model,
            views[name],
            _names(stages, name if isinstance(stages, Mapping) and name in stages else "teacher"),
            task,
        )
        for name, teacher in teachers.items()
    }
    if not isinstance(recipe.stage_align, str):
        chosen = [tuple(pair) for pair in recipe.stage_align]
        pairs = {name: pair_stages(found, other, chosen) for name, other in theirs.items()}
    else:
        count = min([len(found), *(len(other) for other in theirs.values())])
        found = found[-count:] if recipe.stage_align == "from_deep" else found[:count]
        pairs = {name: pair_stages(found, other, recipe.stage_align) for name, other in theirs.items()}
    first = next(iter(pairs.values()), None)
    return pairs, [pair[0] for pair in first] if first else found


def _discover(who: str, model: nn.Module, inputs: Tensor, names: Sequence[str] | None, task: Any) -> list[Stage]:
    try:
        return discover_stages(model, inputs, names=names, backbone=task.trunk(model))
    except ValueError as error:
        hint = f" (stages of {who}; name each network's own with stages=dict(student=[...], teacher=[...]))"
        first, newline, table = str(error).partition("\n")
        raise ValueError(first.rstrip(":") + hint + newline + table) from error


def _names(stages: Any, side: str) -> Sequence[str] | None:
    return stages.get(side) if isinstance(stages, Mapping) else stages


def _dry_run(networks: Networks, task: Any, inputs: Tensor) -> None:
    """Run each network once, eval and no_grad, on what it will see; learn how its taps behave."""
    with evaluating(networks.student), networks.recorder as recorder:
        task.forward(networks.student, inputs)
        recorder.calibrate()
    networks.shown[""] = networks.recorder.take()
    for name, teacher in networks.teachers.items():
        stage_taps = [networks.pairs[name][i - 1][1].tap for i in sorted(networks.plan.teacher_features[name])]
        answer = networks.taps.teacher_answer[name]
        teacher.observe_at([*stage_taps, *([answer] if answer else [])], task.forward, shallow=not answer)
        assert teacher.recorder is not None
        with torch.no_grad(), teacher.recorder as recorder:
            task.forward(teacher.model, teacher.see(inputs))
            recorder.calibrate()
        networks.shown[name] = teacher.recorder.take()
        if teacher.folds:
            teacher.fold(inputs)
    for name, answer in {"": networks.taps.student_answer, **networks.taps.teacher_answer}.items():
        if answer:
            networks.num_classes[name] = networks.shown[name][answer].shape[-1]


def _check_classes(networks: Networks) -> None:
    own = networks.num_classes.get("")
    for name in networks.teachers:
        theirs = networks.num_classes.get(name)
        if own is not None and theirs is not None and own != theirs:
            raise ValueError(
                f"the student answers over {own} classes, teacher {name!r} over {theirs}: losses on responses need one "
                "class list; take a teacher of the same classes, or only feature losses (e.g. kd_mm.StageChannelLoss)"
            )


def build_parts(networks: Networks, recipe: Recipe, seed: int) -> dict[str, nn.ModuleDict]:
    """Build exits, connectors and trainable losses, each under a random state of its own name."""
    plan = networks.plan
    width = next(iter(networks.num_classes.values()), 0)
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
            with private_random_state(f"connector/{name}/{i}", seed):
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


def _place_teacher_exits(teacher: Teacher, built: nn.ModuleDict, recipe: Recipe, online: nn.ModuleDict) -> None:
    mode = recipe.teacher_exits.get("mode", "pretrained")
    if mode == "online" and len(built):
        online[teacher.name] = built
        teacher.exits_ready = True  # nothing to prepare before training
        return
    teacher.exits = built.requires_grad_(False).eval()
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
        with private_random_state(f"exit/{side}/{i}", seed):
            exits[str(i)] = _initialised(config)
    return exits


def _rest(model: nn.Module, stages: Sequence[Stage], shown: Mapping[str, Tensor]) -> list[nn.Module]:
    rest = [find_module(model, Tap.parse(stage.tap)) for stage in stages[1:]]
    outputs = [shown[stage.tap] for stage in stages[1:] if stage.tap in shown]
    with evaluating(model):
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
