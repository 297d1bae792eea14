"""Construction of the objective: exits, connectors, adapters and losses of measured widths."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from kd_mm.distillers.balance import Balance
from kd_mm.distillers.builder import Networks, is_online
from kd_mm.distillers.joint_exits import load_joint_exits
from kd_mm.distillers.objective import Objective
from kd_mm.distillers.recipe import Recipe
from kd_mm.distillers.requirements import Reads
from kd_mm.distillers.teacher import Teacher
from kd_mm.losses import LearningSimplifier, Loss, LossContext
from kd_mm.losses.mtkd_ssr import TeacherExitLoss
from kd_mm.models.exits import average_pool, is_sequential, stride_ratio
from kd_mm.registry import MODELS
from kd_mm.stages.stage import Stage
from kd_mm.stages.tap import Tap, find_module
from kd_mm.tasks import Task
from kd_mm.utils.contexts import eval_mode, isolated_rng

_LOGITS = frozenset({"teacher.logits", "teacher.stage_logits"})


def build_objective(networks: Networks, student: nn.Module, task: Task, recipe: Recipe, seed: int) -> Objective:
    """Build exits, connectors and losses, each under a random state of its own name."""
    needs, losses = networks.requirements, dict(networks.losses)
    classes = next(iter(networks.num_classes.values()), 0)
    build_exits = partial(_build_exits, recipe=recipe, num_classes=task.exit_width(classes), seed=seed)
    transform = _build_adapters(networks, task, recipe, seed)
    exits = build_exits(student, networks.exit_stages, needs.student.exits, networks.student_records, side="student")
    connectors, online = nn.ModuleDict(), nn.ModuleDict()
    for name, teacher in networks.teachers.items():
        stages = [pair[1] for pair in networks.exit_pairs.get(name, ())]
        of_teacher = needs.teachers[name]
        built = build_exits(teacher.model, stages, of_teacher.exits, networks.teacher_records[name], side=name)
        if len(built) and is_online(recipe, teacher):
            online[name] = built
            exit_loss = TeacherExitLoss(teacher=name, stages=sorted(of_teacher.exits))
            exit_loss.choose_teachers(f"exits_of_{name}", [name])
            losses[f"exits_of_{name}"] = exit_loss
        _set_exits(teacher, nn.ModuleDict() if name in online else built, recipe)
        if of_teacher.connectors:
            connectors[name] = _build_connectors(name, networks.pairs[name], of_teacher.connectors, recipe, seed)
    for name, loss in losses.items():
        with isolated_rng(f"loss/{name}/parts", seed):
            loss.setup(_loss_context(networks, student, task, loss, classes))
    extra = {"student.targets"} if any(adapter.needs_targets for adapter in transform.values()) else set()
    reads = frozenset(item for loss in losses.values() for item in loss.requires)
    return Objective(
        requirements=replace(needs, reads=reads | extra),
        losses=losses,
        stages={i: networks.matched[i - 1] for i in needs.student_stages},
        exit_stages={i: networks.exit_stages[i - 1] for i in needs.student.exits},
        reader=networks.reader,
        last=0 if recipe.exit_on_last else len(networks.exit_stages),
        exits=exits,
        connectors=connectors,
        grids=_build_grids(networks.matched, needs.student.connectors),
        teacher_exits=online,
        transform=transform,
        balance=Balance(losses, recipe.shares),
    )


def _loss_context(networks: Networks, student: nn.Module, task: Task, loss: Loss, classes: int) -> LossContext:
    teacher = next(iter(loss.teacher_names), "")
    return LossContext(
        pairs=loss.matched,
        num_classes=classes,
        multilabel=task.multilabel,
        student_taps=_shapes(networks.student_records),
        teacher_taps=_shapes(networks.teacher_records.get(teacher, {})),
        logits_shape=tuple(networks.logits["student"].shape) if "student" in networks.logits else (),
        exit_losses=partial(task.exit_losses, student),
    )


def _set_exits(teacher: Teacher, exits: nn.ModuleDict, recipe: Recipe) -> None:
    teacher.exits = exits.requires_grad_(False).eval()
    teacher.exits_ready = teacher.is_ema or not len(exits)
    if recipe.exit_mode in ("joint", "auto") and not teacher.exits_ready:
        load_joint_exits(teacher, recipe.exits, recipe.exit_mode == "joint")


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
    kind = recipe.exit_type
    for i in sorted(wanted):
        config: dict[str, Any] = {**recipe.exits, "num_classes": num_classes}
        config["widths"] = [stage.channels for stage in stages[i - 1 :]]
        config["strides"] = [stage.stride for stage in stages[i - 1 :]]
        if kind.needs_rest:
            config["rest"] = _rest(model, stages[i - 1 :], records)
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
            f"({', '.join(stage.tap for stage in stages[1:])}); name complete stages in stages=[...] or use SepConvExit"
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


def _build_grids(stages: Sequence[Stage], wanted: frozenset[int]) -> nn.ModuleDict:
    cells = {i: stride_ratio([stages[i - 1].stride, stages[-1].stride]) for i in sorted(wanted)}
    return nn.ModuleDict({str(i): average_pool(ratio) for i, ratio in cells.items() if ratio > 1})


def _build_adapters(networks: Networks, task: Task, recipe: Recipe, seed: int) -> nn.ModuleDict:
    """Build the adapter of each teacher whose logits are read by losses that it serves.

    Raises:
        ValueError: No loss of the recipe reads a teacher's logits.
    """
    adapters = nn.ModuleDict()
    if not recipe.transform:
        return adapters
    classes, num_exits = next(iter(networks.num_classes.values()), 0), len(networks.exit_stages)
    for name in networks.teachers:
        with isolated_rng(f"transform/{name}", seed):
            adapter: LearningSimplifier = MODELS.build(dict(recipe.transform))
            # Maps of logits by cell stay as they are: an adapter changes rows of logits.
            served = [
                loss
                for key, loss in networks.losses.items()
                if adapter.serves(key) and not (loss.reads_exits and task.output == "cells")
            ]
            readers = [loss for loss in served if name in loss.teacher_names and _LOGITS & loss.requires]
            if not readers:
                continue
            reads = Reads.of(readers, "teacher", len(networks.matched), num_exits, recipe.exit_on_last)
            widths = {f"stage{i}": task.exit_width(classes) for i in reads.exits}
            sigmoids = set(widths) if task.multilabel else set()
            if reads.logits:
                logits = networks.logits[name]
                widths["final"] = logits.shape[-1]
                if logits.ndim == 3 and logits.shape[-1] == classes:  # of a dense head without background
                    sigmoids.add("final")
            labelled = task.comparable_logits and not task.multilabel
            adapter.setup(widths, frozenset(sigmoids), labelled, 0 if recipe.exit_on_last else num_exits)
        adapters[name] = adapter
    if networks.losses and not len(adapters):
        raise ValueError(
            f"recipe: transform {recipe.transform['type']} changes a teacher's logits, but none of the losses "
            f"{', '.join(networks.losses)} reads them; add one that does, e.g. the recipe kd, or drop it"
        )
    return adapters


def _initialised(config: dict[str, Any]) -> nn.Module:
    module = MODELS.build(config)
    module.init_weights()
    return module


def _shapes(records: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {tap: tuple(tensor.shape) for tap, tensor in records.items()}
