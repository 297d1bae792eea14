"""The tables that are logged before training: networks, stages, losses; and what networks cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kd_mm.distillers import Distiller
from kd_mm.stages.stage import Stage
from kd_mm.stages.tap import child
from kd_mm.tasks import build_task
from kd_mm.utils.channels import input_channels
from kd_mm.utils.contexts import eval_mode
from kd_mm.utils.tables import render


def complexity(model: nn.Module, input_size: tuple[int, int]) -> tuple[int, int]:
    """Return parameters and multiply-adds of one image ``(1, C, H, W)`` through a network in inference.

    Operators without a formula in torch (deformable convolutions, RoIAlign, NMS) are left out.
    """
    parameter = next(model.parameters())
    # Two images: torch normalises no single value, as a level of one position and one channel in a group has.
    images = torch.zeros(2, input_channels(model), *input_size, device=parameter.device, dtype=parameter.dtype)
    with eval_mode(model), FlopCounterMode(display=False) as counter:
        build_task(None, model).infer(model, images)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 4


def distillation_report(distiller: Distiller) -> str:
    """Return tables of networks and their cost, matched stages and exits, losses and their weights."""
    needs, recipe = distiller.requirements, distiller.recipe
    networks = Table("network", "role", "parameters", "multiply-adds", "score before training", title="Networks")
    for role, model, score in [
        ("student", distiller.student, ""),
        *((_role(name), teacher.model, teacher.score_text) for name, teacher in distiller.teachers.items()),
    ]:
        params, macs = complexity(model, distiller.input_size)
        networks.add_row(_describe(model), role, _short(params), _short(macs), score)
    tables = [networks]
    for name, pairs in distiller.stage_pairs.items():
        exits = {"student": needs.student.exits, "teacher": needs.teachers[name].exits}
        built: Any = distiller.objective.connectors[name] if needs.teachers[name].connectors else {}
        connectors = frozenset(int(i) for i, connector in built.items() if len(connector.state_dict()))
        with_exits = distiller.exit_pairs[name]
        apart = with_exits != pairs
        tables.append(_stages(f"Stages matched with {_role(name)}", pairs, {} if apart else exits, connectors))
        if apart and any(exits.values()):
            tables.append(_stages(f"Stages with exits, matched with {_role(name)}", with_exits, exits, frozenset()))
    losses = Table("loss", "type", "weight", "schedule", "options", title="Losses", show_lines=False)
    losses.add_row("(student's own)", _head_loss(distiller.student), f"{recipe.student_loss_weight:g}", "", "")
    if recipe.transform and len(distiller.objective.transform):
        kind = str(recipe.transform["type"]).rpartition(".")[2]
        losses.add_row("(teachers' logits)", kind, "", "", _options(recipe.transform))
    for name, loss in distiller.losses.items():
        schedule = type(loss.schedule).__name__ if loss.schedule else ""
        options = _options(recipe.losses.get(name, {}))
        losses.add_row(name, type(loss).__name__, f"{loss.loss_weight:g}", schedule, options)
    return render(*tables, losses)


def _stages(
    title: str,
    pairs: Sequence[tuple[Stage, Stage]],
    exits: Mapping[str, frozenset[int]],
    connectors: frozenset[int],
) -> Table:
    stages = Table("stage", "student", "teacher", "exits", "connector", title=title)
    for i, (student, teacher) in enumerate(pairs, 1):
        sides = " and ".join(side for side, numbers in exits.items() if i in numbers)
        stages.add_row(str(i), _shape(student), _shape(teacher), sides, "yes" if i in connectors else "")
    return stages


def _options(config: Mapping[str, Any]) -> str:
    options = {k: value for k, value in config.items() if k not in ("type", "loss_weight", "schedule", "_scope_")}
    return ", ".join(f"{key}={value}" for key, value in options.items())


def _role(name: str) -> str:
    return name if name.startswith("teacher") else f"teacher {name}"


def _short(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def _describe(model: nn.Module) -> str:
    backbone = child(model, "backbone") or model
    options = vars(backbone)
    depth = options.get("depth", options.get("arch", ""))
    return f"{type(backbone).__name__}{f'-{depth}' if isinstance(depth, int | str) and depth else ''}"


def _head_loss(model: nn.Module) -> str:
    owner = child(model, "roi_head") or model
    head = child(owner, "head") or child(owner, "bbox_head")
    loss = child(head, "loss_module") or child(head, "loss_cls")
    return "" if head is None else type(loss or head).__name__


def _shape(stage: Any) -> str:
    return f"{stage.tap} {stage.channels}x{stage.height}x{stage.width}"
