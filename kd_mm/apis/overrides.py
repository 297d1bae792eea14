"""Overrides of a config: keys from the command line, and another length of the training."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from kd_mm.checks.unread import known_keys
from kd_mm.utils.config import as_list, import_custom_modules, parts_of
from kd_mm.utils.suggest import nearest

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
