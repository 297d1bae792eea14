"""Overrides of a config: keys from the command line, another length of the training; and keys that nothing reads."""

import ast
import contextlib
import difflib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from kd_mm.utils.config import as_list, import_custom_modules, packaged, parts_of
from kd_mm.utils.suggest import join_first, nearest

#: Keys at the top of a config that the engine and the tools read beside the Runner's own arguments.
_READ_ELSEWHERE = {
    "activation_checkpointing",
    "compile",
    "custom_imports",
    "efficient_conv_bn_eval",
    "find_unused_parameters",
    "model_wrapper_cfg",
    "runner_type",
    "size_mismatch",
    "sync_bn",
    "tta_cfg",
    "tta_model",
    "tta_pipeline",
}
#: Variables of upstream's configs that look like such keys.
_VARIABLES = {"train_pipeline", "test_pipeline", "val_pipeline"}
#: How alike a name and a misspelling of it are where a name of another kind may stand, too.
_ALIKE = 0.85
#: Keys of learning rate schedules that count epochs.
_LENGTHS = ("T_max", "total_steps", "begin", "end", "milestones")


def override(config: Config, options: Mapping[str, Any] | None) -> None:
    """Set dotted keys of a config; modules that ``custom_imports`` names only now are imported.

    Raises:
        ValueError: A key that the config's structure does not allow or that nothing reads, a variable whose value was
            copied to other keys when the config was read, or a module that cannot be imported.
    """
    for key, value in (options or {}).items():
        try:
            _check_is_read(config, key)
            whole, _, option = key.rpartition(".")
            if dict(parts_of(config._cfg_dict.to_dict())).get(whole) is True:  # an option of what is on by default
                key, value = whole, {"_delete_": True, option: value}
            config.merge_from_dict({key: value})
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, AssertionError) as error:
            what = error.args[0] if error.args else type(error).__name__
            raise ValueError(f"override {key}={value}: {what}") from error
    if any(key.split(".")[0] == "custom_imports" for key in options or {}):
        import_custom_modules(config)


def _check_is_read(config: Config, key: str) -> None:
    first, *names = key.split(".")
    known = known_keys()
    if first in known:
        return
    if first not in config:
        raise ValueError(f"nothing reads the key {first!r}{nearest(first, [*known, *config])}")
    read = list(parts_of({name: part for name, part in config.items() if name in known}))
    value = config[first]
    for depth in range(len(names) + 1):
        copies = [
            path
            for path, part in read
            if value and type(part) is type(value) and part == value
            # The same number elsewhere is a copy where the key contains the name.
            if not isinstance(value, int | float) or first in path
        ]
        if copies:
            where = " or ".join(".".join([copy, *names[depth:]]) for copy in copies[:3])
            raise ValueError(f"nothing reads {first!r} any more, it was copied when the config was read: set {where}")
        if depth == len(names) or not isinstance(value, list | tuple | dict):
            return
        value = value.get(names[depth]) if isinstance(value, dict) else value[int(names[depth])]


def known_keys() -> set[str]:
    """Return the keys at the top of a config that something reads."""
    return (set(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"}) | _READ_ELSEWHERE


def misspelt_keys(config: Iterable[str]) -> list[str]:
    """Return one line for each key at the top of a config that nothing reads and that looks like one that is read.

    Configs may hold variables of any name, so only near matches are reported, and nothing is stopped.
    """
    known, lines = known_keys(), []
    for key in config:
        near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=_ALIKE)
        if key in known | _VARIABLES or not near or set(near[0].split("_")) < set(key.split("_")):
            continue
        lines.append(f"config: nothing reads the key {key!r}, did you mean {near[0]!r}?")
    return lines


def stale_variables(config: Config) -> list[str]:
    """Return one line for each variable that a config sets anew and does not use, and whose former value its bases use.

    A base copies its variables where it uses them: ``train_pipeline`` of the child changes no data set of the base.
    """
    file = Path(config.filename or "")
    if file.suffix != ".py" or not file.is_file():
        return []
    tree = ast.parse(file.read_text("utf-8"))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assigned = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    bases: dict[str, Any] = {}
    with contextlib.suppress(KeyError, ValueError, OSError):  # none, or one that is computed
        for base in as_list(ast.literal_eval(assigned["_base_"])):
            path = packaged(base) if "::" in base else file.parent / base
            bases.update(Config.fromfile(path, import_custom_modules=False)._cfg_dict.to_dict())
    known, lines = known_keys(), []
    read = list(parts_of({name: part for name, part in config.items() if name in known}))
    for name in sorted(assigned.keys() & bases.keys() - known - used):
        old, new = bases[name], config.get(name)
        copies = [path for path, part in read if old and isinstance(part, str | list | dict) and part == old]
        if copies and new != old:
            lines.append(f"config: {name} is set and not used: {join_first(copies)} has the base's, set that instead")
    return lines


def unused_preprocessor(config: Config) -> list[str]:
    """Return one line where a config has a ``data_preprocessor`` that the engine does not take: the network has one."""
    model = config.get("model")
    networks = [model.get("student"), model] if isinstance(model, Mapping) else []
    network = next((part for part in networks if isinstance(part, Mapping)), {})
    own, outer = network.get("data_preprocessor"), config.get("data_preprocessor")
    if own and outer and any(own.get(name) != value for name, value in outer.items()):
        return ["config: data_preprocessor is set and not used: the model has its own, set that instead"]
    return []


def set_epochs(config: Config, epochs: int) -> float:
    """Give a training by epochs another length, its learning rate schedules in proportion.

    Returns:
        The new length over the old one.
    """
    old = config.train_cfg.max_epochs
    factor = epochs / old
    config.train_cfg.update(max_epochs=epochs, val_interval=min(config.train_cfg.get("val_interval", 1), epochs))
    for schedule in as_list(config.get("param_scheduler")):
        if schedule.get("by_epoch", True):
            for key in [key for key in _LENGTHS if key in schedule]:
                least = 0 if key == "begin" else 1
                scaled = [max(least, round(length * factor)) for length in as_list(schedule[key])]
                schedule[key] = scaled if isinstance(schedule[key], list) else scaled[0]
    return float(factor)
