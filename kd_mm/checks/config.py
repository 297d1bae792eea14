"""Check a config before anything is built: each ``type`` against the registries, each key against a signature.

The check is conservative: it reports what is certain to fail. Options that a builder takes out before it calls
the component (``norm_cfg`` and the like), and types that no registry of the engine holds (albumentations), are left to
that builder, whose error the command line prints as it is.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmengine import registry as engine
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmpretrain.models import ImageClassifier, RandomBatchAugment
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from kd_mm.checks.component_kinds import (
    ALIKE,
    DATASET,
    FUNCTION,
    HOOK,
    LOADER,
    METRIC,
    MODEL,
    OPTIMIZER,
    SAMPLER,
    SECTIONS,
    TRANSFORM,
    Component,
    Kind,
    find_component,
    unknown_type,
)
from kd_mm.checks.numbers import wrong_value
from kd_mm.checks.settings import wrong_settings
from kd_mm.checks.values import meaningless_values
from kd_mm.distillers import Distiller
from kd_mm.models import MultiExitClassifier
from kd_mm.utils.config import parts_of
from kd_mm.utils.suggest import known_options, nearest

#: Options that the engine adds to those of a config.
_ADDED = frozenset(
    {
        "batch_size",
        "dataloader",
        "dataset",
        "evaluator",
        "module",
        "optimizer",
        "parameters",
        "params",
        "runner",
        "sampler",
        "save_dir",
        "self",
        "test_cfg",
        "train_cfg",
    }
)


def check_config(config: Config, sections: Iterable[str] = SECTIONS) -> None:
    """Stop at the first thing in a config that is certain to fail.

    Args:
        config: As the Runner takes it; modules of ``custom_imports`` are imported.
        sections: Keys at its top to check.

    Raises:
        ValueError: In one line: the dotted key, what is wrong, and the nearest right word.
    """
    for line in _errors(config, sections):
        raise ValueError(line)


def _errors(config: Config, sections: Iterable[str]) -> Iterator[str]:
    parts, scope = config._cfg_dict.to_dict(), config.get("default_scope") or "mmengine"
    if "model" not in parts:
        yield "config: there is no model"
    elif isinstance(parts["model"], Mapping) and "type" not in parts["model"]:
        yield "model has no type: is its _base_ missing?"
    for key, _ in parts_of({name: parts.get(name) for name in sections}):
        if key.endswith("._delete_"):
            yield f"{key}: no base has something to delete there: take it out"
    for key in sections:
        part = parts.get(key)
        if key == "train_cfg" and isinstance(part, Mapping):
            if ("type" in part) == ("by_epoch" in part):
                yield "train_cfg: give either type or by_epoch"
                continue
            loop = EpochBasedTrainLoop if part.get("by_epoch") else IterBasedTrainLoop
            kinds = {
                "EpochBasedTrainLoop": ("max_iters", "max_epochs"),
                "IterBasedTrainLoop": ("max_epochs", "max_iters"),
            }
            other, own = kinds.get(str(part.get("type", loop.__name__)), ("", ""))
            if other in part:
                yield f"train_cfg.{other}: a loop by {'epochs' if own == 'max_epochs' else 'iterations'} takes {own}"
            pairs = part.get("dynamic_intervals") or []
            if not isinstance(pairs, list) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
                yield f"train_cfg.dynamic_intervals: {pairs!r} is no list of pairs: write [(BEGIN, INTERVAL)]"
            yield from _part(part, key, Kind((engine.LOOPS,), loop, ("by_epoch",), numbers=True), scope)
        elif key == "optim_wrapper" and isinstance(part, Mapping):
            yield from _clipping(part.get("clip_grad"))
            if "optimizer" in part:
                yield from _part(part, key, SECTIONS[key], scope)
            continue  # several of them, or one that its constructor makes
        elif key == "default_hooks" and isinstance(part, Mapping):
            yield from _hooks(part, scope)
        elif key == "custom_hooks" and isinstance(part, Mapping):
            yield "custom_hooks: it is one hook, not a list of hooks"
        else:
            yield from _part(part, key, SECTIONS[key], scope)
    if "train_cfg" in sections:
        yield from wrong_settings(parts)


def _clipping(part: Any) -> Iterator[str]:
    """Check the options of gradient clipping, which the engine hands to torch."""
    functions: dict[str, Component] = {"norm": clip_grad_norm_, "value": clip_grad_value_}
    function = functions.get(part.get("type", "norm")) if isinstance(part, Mapping) else None
    if function is not None:
        for option in ("max_norm", "clip_value"):
            if isinstance(limit := part.get(option), int | float) and limit <= 0:
                yield f"optim_wrapper.clip_grad.{option}: {limit} leaves nothing of a gradient"
        yield from _options(part, "optim_wrapper.clip_grad", Kind(numbers=True), function)


def _hooks(part: Mapping[str, Any], scope: str) -> Iterator[str]:
    typed = [name for name, hook in part.items() if isinstance(hook, Mapping) and "type" in hook]
    for name, hook in part.items():
        if isinstance(hook, Mapping) and "type" not in hook:
            yield f"default_hooks.{name} has no type{nearest(name, typed)}"
        else:
            yield from _part(hook, f"default_hooks.{name}", HOOK, scope)


def _part(part: Any, key: str, kind: Kind, scope: str, outer: str = "") -> Iterator[str]:
    """Check a part and what it holds; ``outer`` is the package of the component around it."""
    if isinstance(part, list | tuple):
        for number, item in enumerate(part):
            yield from _part(item, f"{key}.{number}", kind, scope, outer)
        return
    if isinstance(part, str) and kind in (HOOK, DATASET, SAMPLER, TRANSFORM, METRIC):
        remedy = f"write dict(type={part!r})" if len(part) > 1 else "is it of {{_base_.NAME}}[0]? Write _base_.NAME[0]"
        yield f"{key}: {part!r} is no dict: {remedy}"
    if not isinstance(part, Mapping):
        return
    scope, given = part.get("_scope_") or scope, part.get("type")
    if given is None and kind.typed:
        yield f"{key} has no type"
    component = kind.default if given is None else given if callable(given) else None
    if isinstance(given, str):
        component = find_component(given, kind, scope)
        if component is None:
            yield from unknown_type(given, key, kind, scope)
    if component is not None:
        yield from _options(part, key, kind, component, outer)
        if kind is MODEL and not inspect.isclass(component):
            return  # a function does with its options what it likes
        outer = component.__module__.partition(".")[0]
    yield from meaningless_values(part, key, kind)
    for name, value in part.items():
        if component is Distiller and name == "student" and isinstance(value, Mapping) and "type" not in value:
            yield f"{key}.student: it is the network itself: student={{{{_base_.model}}}}, with its config in _base_"
            continue
        if component is MultiExitClassifier and name == "exits":  # reads itself where each of them is
            value = [{option: each[option] for option in each if option != "stage"} for each in value]
        function = value.get("type") if name == "collate_fn" and isinstance(value, Mapping) else None
        if isinstance(function, str) and find_component(function, FUNCTION, scope) is None:
            yield from unknown_type(function, f"{key}.{name}", FUNCTION, scope)
        inner = _inner(name, kind, component)
        if inner is not None:
            yield from _part(value, f"{key}.{name}", inner, scope, outer)
        if component is ImageClassifier and name == "train_cfg" and isinstance(value, Mapping) and value:
            yield from _options(value, f"{key}.train_cfg", Kind(), RandomBatchAugment)


def _inner(name: str, kind: Kind, component: Component | None) -> Kind | None:
    """Return what an option of a part is built to, or ``None`` where it is not certain."""
    if kind is LOADER:
        return {"dataset": DATASET, "sampler": SAMPLER, "batch_sampler": SAMPLER}.get(name)
    if kind is DATASET:
        return {"dataset": DATASET, "datasets": DATASET, "pipeline": TRANSFORM}.get(name)
    if kind is TRANSFORM:  # others than the engine's build their parts in ways of their own
        own = inspect.isclass(component) and component.__module__.startswith("mmcv.transforms")
        return TRANSFORM if own and name == "transforms" else None
    if kind is MODEL:  # builders of layers take options out of these
        return None if name.endswith("_cfg") and name not in ("train_cfg", "test_cfg") else MODEL
    if name == "optimizer":
        return OPTIMIZER
    return Kind((engine.VISBACKENDS,)) if name == "vis_backends" else None


def _options(part: Mapping[str, Any], key: str, kind: Kind, component: Component, outer: str = "") -> Iterator[str]:
    if kind is MODEL and component.__module__.startswith(("mmcv.", "torch.")):
        return  # layers, whose builders take options out
    known = known_options(component)
    if component is CheckpointHook:  # hands what it does not know on to the runner, at the first save
        known = [*inspect.signature(CheckpointHook).parameters, *inspect.signature(Runner.save_checkpoint).parameters]
    name = "DataLoader" if kind is LOADER else str(getattr(component, "__name__", component))
    own = component.__module__.startswith("kd_mm.")
    counts, fractions = kind.numbers or kind is HOOK, bool(part.get("convert_to_iter_based"))
    # Detectors take options out of their parts before they build them, and add some.
    lenient = kind is MODEL and outer not in ("", "kd_mm", "mmpretrain")
    for option, value in part.items():
        if option in ("type", "_scope_") or not isinstance(option, str):
            continue
        if known is not None and option not in (*known, *kind.extra):
            hint = nearest(option, [*known, *kind.extra])
            if lenient and not difflib.get_close_matches(option, known, n=1, cutoff=ALIKE):
                continue
            if component is Distiller and "did you mean" not in hint:
                hint += "; where a plain model is inherited, model needs _delete_=True"
            elif part.get("type") and not difflib.get_close_matches(option, known, n=1, cutoff=0.8):
                hint += "; one of another type in the base goes away by _delete_=True beside the new type"
            yield f"{key}.{option}: {name} has no option {option!r}{hint}"
        elif wrong := wrong_value(component, option, value, kind.numbers, counts, fractions):
            yield f"{key}.{option}: {wrong}"
    if kind is OPTIMIZER and inspect.isclass(component) and issubclass(component, Optimizer):
        closure = inspect.signature(component.step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            yield f"{key}.type: {name} computes the loss anew within a step, which the engine does not: take another"
    if known is None or lenient or (own and kind is MODEL):  # the Distiller adds what it measured
        return
    parameters = inspect.signature(component).parameters.values()
    needed = [
        each.name for each in parameters if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    if needed := [name for name in needed if name not in (*part, *_ADDED)]:
        yield f"{key}: {name} needs the option{'s' if len(needed) > 1 else ''} {' and '.join(map(repr, needed))}"
