"""Another length for a training."""

from __future__ import annotations

from mmengine.config import Config

#: Keys of learning rate schedules that count epochs.
_LENGTHS = ("T_max", "total_steps", "begin", "end", "milestones")


def set_epochs(config: Config, epochs: int) -> float:
    """Give a training by epochs another length, its learning rate schedules in proportion.

    Returns:
        The new length over the old one.
    """
    old = config.train_cfg.max_epochs
    config.train_cfg.update(max_epochs=epochs, val_interval=min(config.train_cfg.get("val_interval", 1), epochs))
    schedules = config.get("param_scheduler") or []
    for schedule in schedules if isinstance(schedules, list) else [schedules]:
        if schedule.get("by_epoch", True):
            for key in [key for key in _LENGTHS if key in schedule]:
                schedule[key] = _scaled(schedule[key], epochs / old, least=0 if key == "begin" else 1)
    return float(epochs / old)


def _scaled(length: int | list[int], factor: float, least: int) -> int | list[int]:
    if isinstance(length, list):
        return [max(least, round(each * factor)) for each in length]
    return max(least, round(length * factor))
