"""Finding the stages of student and teachers and matching them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from kd_mm.distillers.recipe import Recipe
from kd_mm.distillers.teacher import Teacher
from kd_mm.stages.discovery import discover_stages
from kd_mm.stages.stage import Stage, pair_stages
from kd_mm.stages.tap import Tap, child, find_module
from kd_mm.tasks import Task
from kd_mm.utils.contexts import eval_mode


def dry_run_size(student: nn.Module, input_size: int | tuple[int, int] | None, default: int) -> tuple[int, int]:
    """Return height and width of the dry run: as given, else the backbone's ``img_size``, else the default.

    Both are padded as the network's data preprocessor pads images.
    """
    size = input_size or getattr(child(student, "backbone"), "img_size", None) or default
    height, width = (size, size) if isinstance(size, int) else size
    divisor = vars(child(student, "data_preprocessor") or student).get("pad_size_divisor", 1)
    return (math.ceil(height / divisor) * divisor, math.ceil(width / divisor) * divisor)


@dataclass(frozen=True)
class Matches:
    """Matched stages, counted from 1.

    Attributes:
        pairs: (student, teacher) stages by the teacher's name.
        student: The student's stages.
    """

    pairs: Mapping[str, Sequence[tuple[Stage, Stage]]] = field(default_factory=dict)
    student: Sequence[Stage] = ()


def match_stages(
    student: nn.Module, teachers: Mapping[str, Teacher], task: Task, recipe: Recipe, stages: Any, inputs: Tensor
) -> tuple[Matches, Matches]:
    """Return the matched stages whose maps can be compared, and those that can have exits.

    They differ where the maps are those of the networks' necks, of which the levels of equal stride are matched.
    """
    of_backbone = _match(student, teachers, task, recipe, stages, inputs)
    if stages is not None or recipe.stage_source != "neck":
        return of_backbone, of_backbone
    networks = [(student, inputs), *((teacher.model, teacher.preprocess(inputs)) for teacher in teachers.values())]
    levels = [_neck_levels(model, view, task) for model, view in networks]
    for (model, _), found in zip(networks, levels, strict=True):
        if not found:
            print_log(
                f"{type(model).__name__} has no neck with several levels: maps are compared at the stages of the "
                "backbones",
                logger="current",
            )
            return of_backbone, of_backbone
    if isinstance(recipe.stage_align, str):
        levels = _of_equal_strides(levels)
    own, *others = ([tap for tap, _ in found] for found in levels)
    named = {"student": own, **dict(zip(teachers, others, strict=True))}
    return _match(student, teachers, task, recipe, named, inputs), of_backbone


def _match(
    student: nn.Module, teachers: Mapping[str, Teacher], task: Task, recipe: Recipe, stages: Any, inputs: Tensor
) -> Matches:
    def discover(role: str, side: str, model: nn.Module, view: Tensor) -> list[Stage]:
        names = stages.get(side) if isinstance(stages, Mapping) else stages
        if isinstance(names, str) or any(not isinstance(name, str) for name in names or ()):
            raise ValueError(
                f"stages={names} of {role}: give a list of modules by name, e.g. ['backbone.layer2', 'backbone.layer3']"
            )
        trunk = task.trunk(model)
        try:
            found = discover_stages(model, view, names=names, backbone=trunk, forward=task.forward_features)
        except ValueError as error:
            hint = f" (stages of {role}; name each network's own with stages=dict(student=[...], teacher=[...]))"
            first, newline, table = str(error).partition("\n")
            raise ValueError(first.rstrip(":") + hint + newline + table) from error
        return _without_frozen(student, found) if model is student and names is None else found

    found = discover("student", "student", student, inputs)
    others = {}
    for name, teacher in teachers.items():
        side = "student" if teacher.is_ema else "teacher"
        side = name if isinstance(stages, Mapping) and name in stages else side
        others[name] = discover(f"teacher {name!r}", side, teacher.model, teacher.preprocess(inputs))
    if isinstance(recipe.stage_align, str):  # all teachers are paired with the same stages of the student
        count = min([len(found), *(len(other) for other in others.values())])
        found = found[-count:] if recipe.stage_align == "from_deep" else found[:count]
    pairs = {name: pair_stages(found, other, recipe.stage_align) for name, other in others.items()}
    first = next(iter(pairs.values()), None)
    return Matches(pairs, [pair[0] for pair in first] if first else found)


def _neck_levels(model: nn.Module, inputs: Tensor, task: Task) -> list[tuple[str, int]]:
    """Return tap and stride, as a power of two, of each map that the neck of a network gives; none of less than two."""
    with eval_mode(model):
        maps = () if child(model, "neck") is None else task.forward_features(model, inputs)
    strides = [round(math.log2(inputs.shape[-2] / one.shape[-2])) for one in maps]
    return [(f"neck[{level}]", stride) for level, stride in enumerate(strides)] if len(maps) > 1 else []


def _of_equal_strides(levels: list[list[tuple[str, int]]]) -> list[list[tuple[str, int]]]:
    """Return the levels of each neck whose stride all necks have; all levels where they have none in common."""
    common = set.intersection(*({stride for _, stride in found} for found in levels))
    return [[level for level in found if level[1] in common] for found in levels] if common else levels


def _without_frozen(student: nn.Module, found: list[Stage]) -> list[Stage]:
    """Return the stages without the leading ones whose weights are frozen: their losses would train nothing that is
    deployed (``frozen_stages`` of upstream backbones).

    Raises:
        ValueError: Everything in their network is frozen.
    """
    student.train()  # some upstream backbones freeze their stages only here
    trunk = found[0].tap.partition(".")[0]
    if not any(parameter.requires_grad for parameter in find_module(student, Tap.parse(trunk)).parameters()):
        raise ValueError(
            f"every weight of the student's {trunk} is frozen, and losses on its stages would train nothing: freeze "
            "less of it (frozen_stages), or take a recipe on logits alone (kd)"
        )
    learns = [any(p.requires_grad for p in find_module(student, Tap.parse(s.tap)).parameters()) for s in found]
    first = learns.index(True) if any(learns) else 0
    if first:
        names = ", ".join(stage.tap for stage in found[:first])
        print_log(f"left out of the distillation because the student freezes them: {names}", logger="current")
    return [replace(stage, index=i) for i, stage in enumerate(found[first:], 1)]
