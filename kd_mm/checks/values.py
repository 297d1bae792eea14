"""Values that their types allow, and that mean nothing there or beside another option."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmengine.runner import Priority

from kd_mm.checks.component_kinds import DATASET, HOOK, LOADER, METRIC, MODEL, Kind
from kd_mm.utils.config import as_list
from kd_mm.utils.suggest import nearest

#: Parts of a network that are components.
_TYPED = ("backbone", "neck", "head", "bbox_head")
#: Options of detectors and of metrics that are from 0 to 1.
_SHARES = ("score_thr", "iou_threshold", "iou_thr", "iou_thrs", "thrs", "pos_iou_thr", "neg_iou_thr", "min_pos_iou")
#: Options of a data set that each of several has for its own.
_PATHS = ("ann_file", "data_root", "data_prefix")
#: Options that only workers have, and the value of each that leaves it off.
_OF_WORKERS = (("persistent_workers", False), ("prefetch_factor", None))


def meaningless_values(part: Mapping[str, Any], key: str, kind: Kind) -> Iterator[str]:
    """Yield one line for each such value of a part of a config.

    Args:
        part: The part.
        key: Its dotted key.
        kind: What is built from it.
    """
    for name in ("mean", "std"):
        if any(isinstance(item, str) for item in as_list(part.get(name))):
            yield f"{key}.{name}: {part[name]!r} is no list of numbers"
    if part.get("topk", 1) in ([], ()) and (kind is not MODEL or part.get("cal_acc")):
        yield f"{key}.topk: it is empty; write [1]"
    for name in _SHARES if kind in (MODEL, METRIC) else ():
        for value in as_list(part.get(name)):
            if isinstance(value, int | float) and value > 1:
                yield f"{key}.{name}: {value} is a share above 1; write {value / 100:g} for {value:g} %"
    if kind in _CHECKS:
        yield from _CHECKS[kind](part, key)


def _in_model(part: Mapping[str, Any], key: str) -> Iterator[str]:
    for name, value in part.items():
        if str(name).endswith("loss_weight"):
            if isinstance(value, str | list | tuple) or (value is None and name == "loss_weight"):
                yield f"{key}.{name}: {value!r} is no number"
            elif isinstance(value, int | float) and value < 0:
                yield f"{key}.{name}: {value} would make the loss grow; give a number of 0 or more"
        for item in as_list(value) if name in _TYPED and "type" in part else ():
            if isinstance(item, int | float | str):
                yield f"{key}.{name}: {value!r} is no dict"
            elif item and "type" not in item:
                why = ": a list replaces the whole one of the base" if isinstance(value, list) else ""
                yield f"{key}.{name} has no type{why}"
    rpn = part.get("rpn")
    samplers = as_list(rpn.get("sampler")) if isinstance(rpn, Mapping) else []
    if any(
        str(each.get("type")).endswith("RandomSampler") and each.get("add_gt_as_proposals", True) for each in samplers
    ):
        yield f"{key}.rpn.sampler: it counts anchors, not proposals: set add_gt_as_proposals=False"
    classes, topk = part.get("num_classes"), part.get("topk")
    if (
        part.get("cal_acc")
        and isinstance(classes, int)
        and isinstance(topk, list | tuple)
        and max(topk, default=0) > classes
    ):
        yield f"{key}.topk: {max(topk)} of {classes} classes is not defined: set it to at most {classes}"


def _in_data_set(part: Mapping[str, Any], key: str) -> Iterator[str]:
    yield from _several_data_sets(part, key, ("dataset", *_PATHS))
    folds = part.get("num_splits", 5)
    if str(part.get("type")).endswith("KFoldDataset") and part.get("fold", 0) not in range(folds):
        yield f"{key}.fold: {part['fold']!r} is none of {folds} folds, which count from 0"
    if isinstance(part.get("pipeline"), Mapping):
        yield f"{key}.pipeline: it is one step, not a list of steps"


def _in_loader(part: Mapping[str, Any], key: str) -> Iterator[str]:
    yield from _several_data_sets(part, key, ("dataset",))
    for option, off in _OF_WORKERS:
        if part.get(option) and not part.get("num_workers"):
            yield f"{key}: {option}={part[option]} needs num_workers of 1 or more; set it to {off}"


def _several_data_sets(part: Mapping[str, Any], key: str, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        if isinstance(part.get(name), list | tuple):
            example = "dict(type='ConcatDataset', datasets=[dict(...), ...])"
            yield f"{key}.{name}: it is a list: join data sets as {example}"


def _in_hook(part: Mapping[str, Any], key: str) -> Iterator[str]:
    if not isinstance(best := part.get("save_best"), str | list | None):
        yield f"{key}.save_best: {best!r} is no name of a metric; 'auto' takes the first"
    scores = str(part.get("type")).endswith(("CheckpointHook", "EarlyStoppingHook"))
    for rule in as_list(part.get("rule")) if scores else ():
        if rule not in ("greater", "less", None):
            yield f"{key}.rule: {rule!r} is neither 'greater' nor 'less'"
    threshold, monitor = part.get("stopping_threshold"), str(part.get("monitor"))
    if isinstance(threshold, float) and threshold <= 1 and monitor.startswith(("accuracy/", "single-label/", "reid/")):
        yield f"{key}.stopping_threshold: {threshold} stops at once, {monitor} is in per cent"
    if part.get("interval") == 0:
        yield f"{key}.interval: 0 is no interval; -1 means never"
    if isinstance(level := part.get("priority"), str) and level.upper() not in Priority.__members__:
        yield f"{key}.priority: there is no {level!r}{nearest(level.upper(), Priority.__members__)}"


_CHECKS: dict[Kind, Callable[[Mapping[str, Any], str], Iterator[str]]] = {
    MODEL: _in_model,
    DATASET: _in_data_set,
    LOADER: _in_loader,
    HOOK: _in_hook,
}
