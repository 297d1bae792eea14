"""Check what the engine reads of a config besides components: seed, log level, rates, loops that go together."""

import difflib
import inspect
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.runner.checkpoint import get_torchvision_models

from kd_mm.utils.config import as_list, parts_of
from kd_mm.utils.suggest import nearest

#: What the engine wants all or none of.
_TRIPLES = (
    ("train_dataloader", "train_cfg", "optim_wrapper"),
    ("val_dataloader", "val_cfg", "val_evaluator"),
    ("test_dataloader", "test_cfg", "test_evaluator"),
)
#: Options of keys at the top of a config, which are not those of a component.
_READ_BY_THE_ENGINE = {
    "env_cfg": ("cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"),
    "auto_scale_lr": ("base_batch_size", "enable"),
}


def wrong_settings(parts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong in what the engine reads besides components, and values that no component can take."""
    yield from _missing_rates(parts.get("optim_wrapper"))
    yield from _late_begins(parts)
    for key, known in _READ_BY_THE_ENGINE.items():
        for option in parts.get(key) or {}:
            if option not in known and difflib.get_close_matches(option, known, n=1):
                yield f"{key}.{option}: nothing reads {option!r}{nearest(option, known)}"
    if isinstance(given := parts.get("resume"), str):
        yield f"resume: {given!r} is neither True nor False; --resume {given} goes on from a file"
    base = (parts.get("auto_scale_lr") or {}).get("base_batch_size")
    if isinstance(base, str):
        why = "give the number of images that a step had where the learning rate was chosen"
        yield f"auto_scale_lr.base_batch_size={base}: {why}"
    seed = (parts.get("randomness") or {}).get("seed")
    if isinstance(seed, str | float):
        yield f"randomness.seed: {seed!r} is no integer"
    elif isinstance(seed, int) and not 0 <= seed < 2**32:
        yield f"randomness.seed: {seed} is not from 0 to 2**32 - 1"
    for key, value in parts_of(parts.get("model"), "model"):
        local = key.endswith("init_cfg.checkpoint") and isinstance(value, str) and "://" not in value
        if key.endswith("init_cfg.checkpoint") and str(value).startswith("torchvision://"):
            known, name = get_torchvision_models(), value.removeprefix("torchvision://")
            if name not in known:
                yield f"{key}: torchvision has no {name!r}{nearest(name, known)}"
        if key.endswith(".init_cfg.checkpoint") and not isinstance(value, str):
            yield f"{key}: {value!r} is no path of a file"
        if local and not Path(value).expanduser().is_file():
            yield f"{key}: there is no file {value!r}: put the weights there, or leave init_cfg out"
    for key, value in parts_of(parts):
        is_path = "_dataloader." in key or key.endswith(("checkpoint", "load_from"))  # others take addresses
        if is_path and isinstance(value, str) and value.startswith("file://"):
            yield f"{key}: {value!r} is not read: write the path without file://"
        rate = key.startswith("optim_wrapper.optimizer.")
        if isinstance(value, float) and (math.isnan(value) or (rate and math.isinf(value))):
            yield f"{key}: {value} is no number"
        if inspect.isfunction(value) and value.__qualname__ not in vars(sys.modules.get(value.__module__, sys)):
            yield f"{key}: a run writes its config, which a function of its own cannot be in: register it and name it"
    level = parts.get("log_level")
    if isinstance(level, str) and not isinstance(logging.getLevelName(level), int):
        yield f"log_level: there is no {level!r}{nearest(level, ('DEBUG', 'INFO', 'WARNING', 'ERROR'))}"
    for triple in _TRIPLES:
        missing = [key for key in triple if parts.get(key) is None]
        if missing and len(missing) < len(triple):
            given = " and ".join(key for key in triple if key not in missing)
            yield f"{given} without {' and '.join(missing)}: give all three, or set all three to None"


def _missing_rates(part: Any) -> Iterator[str]:
    """Check that the optimizer names the rates that upstream's constructors multiply for single parameters."""
    if not isinstance(part, Mapping) or not isinstance(part.get("optimizer"), Mapping):
        return
    constructor = str(part.get("constructor") or "DefaultOptimWrapperConstructor").rpartition(".")[2]
    keys = (part.get("paramwise_cfg") or {}).get("custom_keys")
    for name, value in keys.items() if isinstance(keys, Mapping) else ():
        if not isinstance(value, Mapping):
            yield f"optim_wrapper.paramwise_cfg.custom_keys.{name}: {value!r} is no dict such as dict(lr_mult=0.1)"
    names = [key.rpartition(".")[2] for key, _ in parts_of(part.get("paramwise_cfg"))]
    for option, ending in (("weight_decay", "decay_mult"), ("lr", "lr_mult")):
        by = [name for name in names if name.endswith(ending) and constructor.startswith("Default")]
        by += [constructor] if constructor.startswith("LearningRateDecay") else []
        if by and part["optimizer"].get(option) is None:
            yield f"optim_wrapper.optimizer has no {option!r}, which {by[0]} multiplies: give it one"


def _late_begins(parts: Mapping[str, Any]) -> Iterator[str]:
    """Check schedules and averages that begin after their end, which the engine's components refuse."""
    for number, part in enumerate(as_list(parts.get("param_scheduler"))):
        options = part if isinstance(part, Mapping) else {}
        begin, end = options.get("begin", 0), options.get("end", math.inf)
        if isinstance(begin, int) and isinstance(end, int | float) and begin >= end:
            yield f"param_scheduler.{number}: it begins at {begin} and ends at {end}: nothing is between them"
    train_cfg = parts.get("train_cfg")
    lengths = train_cfg if isinstance(train_cfg, Mapping) else {}
    for number, hook in enumerate(as_list(parts.get("custom_hooks"))):
        options = hook if isinstance(hook, Mapping) and str(hook.get("type")).endswith("EMAHook") else {}
        for option, length in (("begin_epoch", "max_epochs"), ("begin_iter", "max_iters")):
            begin, most = options.get(option), lengths.get(length)
            if isinstance(begin, int) and isinstance(most, int) and begin > most:
                yield f"custom_hooks.{number}.{option}: {begin} is beyond the run, train_cfg.{length} is {most}"
