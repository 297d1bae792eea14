"""Training state that upstream parts keep in plain attributes, which no state dict holds."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from torch import nn

_HOOK_ATTRIBUTES = {"EarlyStoppingHook": ("wait_count", "best_score")}
# mmdet's BatchSyncRandomResize keeps the size it drew last.
_MODULE_ATTRIBUTES = ("_input_size",)


def module_attributes(model: nn.Module) -> list[tuple[str, str, Any]]:
    """Module name, attribute and value of each such attribute in ``model``."""
    return [
        (name, attribute, vars(module)[attribute])
        for name, module in model.named_modules()
        for attribute in _MODULE_ATTRIBUTES
        if attribute in vars(module)
    ]


def restore_module_attributes(model: nn.Module, values: list[tuple[str, str, Any]]) -> None:
    """Undo :func:`module_attributes`; modules that are gone are passed over."""
    modules = dict(model.named_modules())
    for name, attribute, value in values:
        if name in modules:
            setattr(modules[name], attribute, value)


def hook_states(hooks: list[Hook]) -> list[dict[str, Any]]:
    """State of every hook that has ``state_dict()`` and ``load_state_dict()``, and of upstream's that need it."""
    return [state for hook in hooks if len(state := _hook_state(hook)) > 1]


def restore_hook_states(hooks: list[Hook], states: list[dict[str, Any]]) -> None:
    """Undo :func:`hook_states`: the n-th hook of a type gets the n-th state of that type."""
    waiting = list(states)
    for hook in hooks:
        kind = type(hook).__name__
        index = next((i for i, state in enumerate(waiting) if state["type"] == kind), None)
        if index is None:
            continue
        state = waiting.pop(index)
        if "state" in state and hasattr(hook, "load_state_dict"):
            hook.load_state_dict(state["state"])
        for name in _HOOK_ATTRIBUTES.get(kind, ()):
            setattr(hook, name, state[name])


def cached_transforms(dataset: Any) -> list[str]:
    """Names of the transforms in ``dataset`` that keep earlier samples (``CachedMosaic``, ``CachedMixUp``)."""
    found: list[str] = []
    waiting: list[Any] = [dataset]
    seen: set[int] = set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if hasattr(part, "results_cache"):
            found.append(type(part).__name__)
        for name in ("dataset", "datasets", "pipeline", "transforms"):
            inner = getattr(part, name, None)
            if inner is not None:
                waiting += inner if isinstance(inner, (list, tuple)) else [inner]
    return sorted(found)


def _hook_state(hook: Hook) -> dict[str, Any]:
    kind = type(hook).__name__
    state: dict[str, Any] = {"type": kind}
    if hasattr(hook, "state_dict") and hasattr(hook, "load_state_dict"):
        state["state"] = hook.state_dict()
    for name in _HOOK_ATTRIBUTES.get(kind, ()):
        value = getattr(hook, name)
        state[name] = value if isinstance(value, int) else float(value)
    return state
