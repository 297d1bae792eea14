"""Which part of a config the engine was building when an error came up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from traceback import walk_tb
from types import FrameType, TracebackType
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.registry import Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, LogProcessor, Runner, TestLoop, ValLoop
from mmengine.visualization import Visualizer
from torch.utils.data import DataLoader

#: A dotted key of a config, and its value.
Part = tuple[str, Any]

#: Parts that need no type, and what is built from them.
DEFAULTS: dict[str, Callable[..., Any]] = {
    "val_cfg": ValLoop,
    "test_cfg": TestLoop,
    "optim_wrapper": OptimWrapper,
    "log_processor": LogProcessor,
    "randomness": Runner.set_randomness,
    "visualizer": Visualizer,
    "train_dataloader": DataLoader,
    "val_dataloader": DataLoader,
    "test_dataloader": DataLoader,
}
#: Methods of the Runner that build a part, and its key.
BUILDERS = {
    "build_train_loop": "train_cfg",
    "build_val_loop": "val_cfg",
    "build_test_loop": "test_cfg",
    "build_optim_wrapper": "optim_wrapper",
    "build_param_scheduler": "param_scheduler",
    "build_log_processor": "log_processor",
    "build_visualizer": "visualizer",
    "build_model": "model",
    "set_randomness": "randomness",
    "setup_env": "env_cfg",
    "scale_lr": "auto_scale_lr",
}


@dataclass(frozen=True)
class Place:
    """The innermost part of a config that was being built.

    Attributes:
        key: Dotted key.
        part: Its value.
        component: What the engine was about to call, where it got so far.
        registry: Where it looked the type up.
        ours: Whether the error was raised by kd_mm itself.
    """

    key: str
    part: Mapping[str, Any]
    component: Callable[..., Any] | None
    registry: Registry | None
    ours: bool


def config_parts(value: Any, key: str = "") -> Iterator[Part]:
    """Walk through a config; yields each value under its dotted key."""
    yield key, value
    inner: Any = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        yield from config_parts(part, f"{key}.{name}" if key else str(name))


def default_component(key: str, part: Mapping[str, Any]) -> Callable[..., Any] | None:
    """Return what the engine builds from a part that names no type."""
    if key == "train_cfg":
        return EpochBasedTrainLoop if part.get("by_epoch") else IterBasedTrainLoop
    return DEFAULTS.get(key)


def extra_options(key: str, part: Mapping[str, Any]) -> list[str]:
    """Return the options that the engine reads before it builds a part, as far as they are not given."""
    return ["by_epoch"] if key == "train_cfg" and "by_epoch" not in part else []


def find_place(where: TracebackType | None, parts: list[Part]) -> Place | None:
    """Return the innermost part that was being built, or None where nothing was."""
    frames = [frame for frame, _ in walk_tb(where)]
    ours = bool(frames) and _module(frames[-1]).startswith("kd_mm.")
    for frame in reversed(frames):
        given, component, registry = _built(frame)
        key = _key_of(given, parts) if isinstance(given, Mapping) else None
        if key is None and _module(frame).startswith("mmengine.runner"):
            key = BUILDERS.get(frame.f_code.co_name)
        if key is None:
            continue
        part = next((value for name, value in parts if name == key), None)
        if isinstance(part, Mapping):
            return Place(key, part, component or default_component(key, part), registry, ours)
        if part is not None:
            return Place(key, {}, component, registry, ours)
    return None


def in_training(where: TracebackType | None) -> bool:
    """Whether an error came up in a training step."""
    return any(frame.f_code.co_name == "train_step" for frame, _ in walk_tb(where))


def _built(frame: FrameType) -> tuple[Any, Callable[..., Any] | None, Registry | None]:
    """Return the config, the component and the registry of a frame that builds something."""
    values, name = frame.f_locals, frame.f_code.co_name
    if name == "build_from_cfg" and _module(frame) == "mmengine.registry.build_functions":
        return values.get("cfg"), values.get("obj_cls"), values.get("registry")
    if name == "build_dataloader" and _module(frame).startswith("mmengine.runner"):
        return values.get("dataloader"), None, None
    return None, None, None


def _key_of(given: Mapping[str, Any], parts: list[Part]) -> str | None:
    """Return the key of the part that ``given`` was made of; the engine adds options, and fills some in."""
    same = [(key, part) for key, part in parts if isinstance(part, Mapping) and part and key and _within(part, given)]
    return max(same, key=lambda item: len(item[1]))[0] if same else None


def _within(part: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    return part.get("type") == given.get("type") and all(key in given and given[key] == part[key] for key in part)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
