"""Construction of the objective: exits, connectors, adapters and losses of measured widths."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from kd_mm.distillers.builder import Networks
from kd_mm.distillers.joint_exits import load_joint_exits
from kd_mm.distillers.objective import Objective
from kd_mm.distillers.requirements import Reads
from kd_mm.losses import LearningSimplifier, Loss, LossContext
from kd_mm.losses.mtkd_ssr import TeacherExitLoss
from kd_mm.models.exits import average_pool, is_sequential, stride_ratio
from kd_mm.registry import MODELS
from kd_mm.stages.stage import Stage
from kd_mm.stages.tap import Tap, find_module
from kd_mm.utils.contexts import eval_mode, isolated_rng

_LOGITS = frozenset({"teacher.logits", "teacher.stage_logits"})


def build_objective(networks: Networks) -> Objective:
    """Build exits, connectors and losses, each under a random state of its own name."""
    needs, losses, recipe = networks.requirements, dict(networks.losses), networks.recipe
    transform = _build_adapters(networks)
    exits = _build_exits(
        networks, "student", networks.student, networks.exit_stages, needs.student.exits, networks.student_records
    )
    connectors, online = nn.ModuleDict(), nn.ModuleDict()
    for name, teacher in networks.teachers.items():
        stages, of_teacher = [pair[1] for pair in networks.exit_pairs.get(name, ())], needs.teachers[name]
        records = networks.teacher_records[name]
        built = _build_exits(networks, name, teacher.model, stages, of_teacher.exits, records)
        if len(built) and networks.is_online(teacher):
            online[name] = built
            exit_loss = TeacherExitLoss(teacher=name, stages=sorted(of_teacher.exits))
            exit_loss.choose_teachers(f"exits_of_{name}", [name])
            losses[f"exits_of_{name}"] = exit_loss
        teacher.exits = (nn.ModuleDict() if name in online else built).requires_grad_(False).eval()
        teacher.exits_ready = teacher.is_ema or not len(teacher.exits)
        if recipe.exit_mode in ("joint", "auto") and not teacher.exits_ready:
            load_joint_exits(teacher, recipe.exits, recipe.exit_mode == "joint")
        if of_teacher.connectors:
            connectors[name] = _build_connectors(networks, name, of_teacher.connectors)
    for name, loss in losses.items():
        with isolated_rng(f"loss/{name}/parts", networks.seed):
            loss.setup(_loss_context(networks, loss))
    extra = {"student.targets"} if any(adapter.needs_targets for adapter in transform.values()) else set()
    reads = frozenset(item for loss in losses.values() for item in loss.requires)
    strides = {i: networks.matched[i - 1].stride for i in sorted(needs.student.connectors)}
    cells = {i: stride_ratio([stride, networks.matched[-1].stride]) for i, stride in strides.items()}
    grids = nn.ModuleDict({str(i): average_pool(ratio) for i, ratio in cells.items() if ratio > 1})
    needs = replace(needs, reads=reads | extra)
    return Objective(networks, needs, losses, exits, connectors, grids, online, transform)


def _num_classes(networks: Networks) -> int:
    return next(iter(networks.class_counts.values()), 0)


def _loss_context(networks: Networks, loss: Loss) -> LossContext:
    teacher = next(iter(loss.teacher_names), "")
    return LossContext(
        pairs=loss.matched,
        num_classes=_num_classes(networks),
        multilabel=networks.task.multilabel,
        multilabel_logits=networks.task.multilabel and networks.task.comparable_logits,
        student_taps=_shapes(networks.student_records),
        teacher_taps=_shapes(networks.teacher_records.get(teacher, {})),
        logits_shape=tuple(networks.logits["student"].shape) if "student" in networks.logits else (),
        exit_losses=partial(networks.task.exit_losses, networks.student),
    )


def _build_exits(
    networks: Networks,
    side: str,
    model: nn.Module,
    stages: Sequence[Stage],
    wanted: frozenset[int],
    records: Mapping[str, Tensor],
) -> nn.ModuleDict:
    exits, recipe = nn.ModuleDict(), networks.recipe
    for i in sorted(wanted):
        config = {**recipe.exits, "num_classes": networks.task.exit_width(_num_classes(networks))}
        config["widths"] = [stage.channels for stage in stages[i - 1 :]]
        config["strides"] = [stage.stride for stage in stages[i - 1 :]]
        if recipe.exit_type.needs_rest:
            config["rest"] = _rest(model, stages[i - 1 :], records)
        with isolated_rng(f"exit/{side}/{i}", networks.seed):
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


def _build_connectors(networks: Networks, name: str, wanted: frozenset[int]) -> nn.ModuleDict:
    connectors = nn.ModuleDict()
    for i in sorted(wanted):
        student, teacher = networks.pairs[name][i - 1]
        with isolated_rng(f"connector/{name}/{i}", networks.seed):
            connectors[str(i)] = _initialised({**networks.recipe.connectors, "student": student, "teacher": teacher})
    return connectors


def _build_adapters(networks: Networks) -> nn.ModuleDict:
    """Build the adapter of each teacher whose logits are read by losses that it serves.

    Raises:
        ValueError: No loss of the recipe reads a teacher's logits.
    """
    adapters, task, recipe = nn.ModuleDict(), networks.task, networks.recipe
    if not recipe.transform:
        return adapters
    classes, num_exits = _num_classes(networks), len(networks.exit_stages)
    for name in networks.teachers:
        with isolated_rng(f"transform/{name}", networks.seed):
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
                dense = logits.ndim == 3 and logits.shape[-1] == classes  # a head without background
                if dense or (task.multilabel and task.comparable_logits):
                    sigmoids.add("final")
            labelled = task.comparable_logits and not task.multilabel
            adapter.setup(widths, frozenset(sigmoids), labelled, networks.last)
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
