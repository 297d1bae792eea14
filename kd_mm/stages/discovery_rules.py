"""Which module calls of a traced backbone are its stages.

One rule for pyramids, whatever the family: a stage is the last block at each resolution. A *unit* is a module call on
the way from image to output, a *block* a unit with at least two convolutions or linear layers inside. Calls that only
hold other resolutions for a moment (squeeze-and-excite, reduced keys of an attention) lie inside blocks and are not
looked at; a call is opened only where blocks of a finer resolution end inside it. What runs before the first block is
the stem. Two kinds of networks need a rule of their own: parallel branches (HRNet) and constant resolution (ViT).
"""

import math
import re
from collections import defaultdict
from collections.abc import Sequence

from torch import nn

from kd_mm.stages.feature_info import TensorLayout
from kd_mm.stages.trace import ModuleCall

# A call that makes the grid coarser by more than this in one go holds several stages (or is a patch embedding).
_SEVERAL_STEPS = 3.0
# A resolution that holds this share of the weights makes the network one of constant resolution.
_DOMINANT_SHARE = 0.95
_SPLIT = 4
_STEM_NAMES = ("stem", "patch_embed", "patch_embedding", "tokens_to_token", "pos_embed")

Candidate = tuple[ModuleCall, TensorLayout]


def find_candidates(root: ModuleCall) -> tuple[list[Candidate], ModuleCall | None]:
    """Return the stages of a traced backbone, shallow to deep, each with the output to read, and its first block.

    Everything that starts before the first block is the stem. The first block is ``None`` where nothing was found.
    """
    units = [unit for unit in _units(root) if unit.primary is not None]
    if any(unit.branches for unit in units):
        found = _branch_stages(units)
        return found, next((unit for unit in units if _is_block(unit)), None)
    groups = _groups(units)
    blocks = _even_split(groups)
    if blocks:
        step = len(blocks) / min(_SPLIT, len(blocks))
        chosen = [blocks[math.ceil(step * k) - 1] for k in range(1, min(_SPLIT, len(blocks)) + 1)]
        return [(call, _primary(call)) for call in chosen], blocks[0]
    if not groups:
        return [], None
    first = next((unit for unit in groups[0] if _is_block(unit)), groups[0][0])
    stages = [_outermost(_last(group)) for group in groups]
    return [(call, _primary(call)) for call in stages], first


def _primary(call: ModuleCall) -> TensorLayout:
    if call.primary is None:
        raise RuntimeError(f"{call.name} returned no feature")
    return call.primary


def _has_weights(call: ModuleCall) -> bool:
    return any(parameter.ndim >= 2 for parameter in call.module.parameters())


def _is_stem(call: ModuleCall) -> bool:
    return any(part.startswith(_STEM_NAMES) for part in call.name.split("."))


def _is_composite(call: ModuleCall) -> bool:
    if isinstance(call.module, nn.Sequential):
        return any(_is_composite(child) for child in call.children)
    layers = {
        id(inner.module)
        for inner in call.walk()
        if any(parameter.ndim >= 2 for parameter in inner.module.parameters(recurse=False))
    }
    return len(layers) >= 2


def _is_block(call: ModuleCall) -> bool:
    return _is_composite(call) and not _is_stem(call)


def _units(call: ModuleCall) -> list[ModuleCall]:
    units = []
    for child in call.children:
        if _must_open(child):
            units.extend(_units(child))
        elif _has_weights(child):
            units.append(child)
    return units


def _must_open(call: ModuleCall) -> bool:
    if call.primary is None or call.source is None or call.branches or not call.children:
        return False
    source = call.source.cells
    ratio = math.sqrt(source / call.primary.cells)
    if ratio > _SEVERAL_STEPS:
        return True
    return ratio > 1 and any(
        child.primary is not None
        and child.primary.cells == source
        and (isinstance(child.module, nn.Sequential) or _in_container(child))
        and _is_block(child)
        for child in call.children
    )


def _in_container(call: ModuleCall) -> bool:
    return call.name.rsplit(".", 1)[-1].isdigit()


def _groups(units: Sequence[ModuleCall]) -> list[list[ModuleCall]]:
    """Group units by resolution, fine to coarse; groups without a block are stem or tail, unless no unit is a block.

    A unit that is coarser than one which follows it was an excursion, not a step of the pyramid.
    """
    kept: list[ModuleCall] = []
    coarsest = 0
    for unit in reversed(units):
        if _primary(unit).cells >= coarsest:
            coarsest = _primary(unit).cells
            kept.append(unit)
    by_cells: dict[int, list[ModuleCall]] = defaultdict(list)
    for unit in reversed(kept):
        by_cells[_primary(unit).cells].append(unit)
    groups = list(by_cells.values())
    with_blocks = [group for group in groups if any(map(_is_block, group))]
    if with_blocks:
        return with_blocks[:-1] + _undo_dilation(with_blocks)
    without_stem = ([unit for unit in group if not _is_stem(unit)] for group in groups)
    return [group for group in without_stem if group]


def _undo_dilation(groups: Sequence[list[ModuleCall]]) -> list[list[ModuleCall]]:
    """Return the last group, one for each stage module where the network holds its last stages at one resolution.

    So do detectors with dilation and re-ID networks with last stride 1: ``layer3`` and ``layer4`` are two stages
    there. Recognised by what comes before: each finer resolution is one such module (in a MobileNet it is many).
    """
    last = [unit for unit in groups[-1] if _is_block(unit)]
    finer = [[unit for unit in group if _is_block(unit)] for group in groups[:-1]]
    row = [unit for group in finer for unit in group] + last
    alike = len({re.sub(r"\d+", "", unit.name) for unit in row}) == 1
    single = bool(finer) and all(len(group) == 1 for group in finer)
    if len(last) < 2 or not single or not alike or not all(isinstance(unit.module, nn.Sequential) for unit in row):
        return [groups[-1]]
    return [[unit] for unit in last]


def _branch_stages(units: Sequence[ModuleCall]) -> list[Candidate]:
    """Parallel branches: each stage is the coarsest branch at the end of the time in which it was the coarsest."""
    stages: dict[int, Candidate] = {}
    front = math.inf
    for unit in filter(_is_block, units):
        reading = min(unit.outputs, key=lambda output: output.cells)
        if reading.cells <= front:
            front = reading.cells
            stages[reading.cells] = (_outermost(unit), reading)
    return list(stages.values())


def _even_split(groups: Sequence[Sequence[ModuleCall]]) -> list[ModuleCall]:
    """Return the blocks of a network of constant resolution: the largest row of equal modules; else nothing."""
    if not groups:
        return []
    weights = [sum(unit.weight_count() for unit in group) for group in groups]
    dominant = weights.index(max(weights))
    if weights[dominant] < _DOMINANT_SHARE * sum(weights):
        return []
    cells = _primary(groups[dominant][0]).cells
    rows: dict[tuple[str, type], list[ModuleCall]] = defaultdict(list)
    for unit in groups[dominant]:
        for call in unit.walk():
            if call.primary is not None and call.primary.cells == cells and _in_container(call):
                rows[call.name.rpartition(".")[0], type(call.module)].append(call)
    if not rows:
        return []
    row = max(rows.values(), key=lambda calls: (sum(call.weight_count() for call in calls), len(calls)))
    few = len(groups) == 1 and len(row) > 1 and all(map(_is_block, row))  # beside other resolutions a few are no row
    return row if few or len(row) >= _SPLIT else []


def _last(group: Sequence[ModuleCall]) -> ModuleCall:
    """Return the last unit of a group, the normalisation and activation that follow a bare convolution included."""
    unit = group[-1]
    if unit.children or unit.parent is None:
        return unit
    siblings = unit.parent.children
    for sibling in siblings[siblings.index(unit) + 1 :]:
        if sibling.children or _has_weights(sibling) or not _is_pointwise(sibling.module):
            break
        unit = sibling
    return unit


def _is_pointwise(module: nn.Module) -> bool:
    kind = type(module)
    return "norm" in kind.__name__.lower() or kind.__module__ == "torch.nn.modules.activation"


def _outermost(call: ModuleCall) -> ModuleCall:
    """Return the outermost call that returns the very tensor of ``call``: ``layer1`` rather than ``layer1.2``."""
    while call.parent is not None and call.parent.parent is not None:
        parent = call.parent
        if not parent.returns_last_child or parent.children[-1] is not call:
            break
        call = parent
    return call
