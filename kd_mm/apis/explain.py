"""What the engine says of a config that it cannot build, said in the config's own words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine import registry as engine
from mmengine.config import Config
from mmengine.registry import Registry

from kd_mm import registry as own
from kd_mm.distillers.options import accepted_options, nearest


@contextmanager
def explaining(config: Config) -> Iterator[None]:
    """Say where in ``config`` an error of the engine comes from, where that can be told.

    Raises:
        ValueError: An unknown type or option, or a missing file, with its key in the config and the nearest choice.
    """
    try:
        yield
    except (TypeError, KeyError, FileNotFoundError) as error:
        text = explanation(error, config)
        if text is None:
            raise
        raise ValueError(text) from error


def explanation(error: Exception, config: Config) -> str | None:
    """Return one line on an error that a config caused, or None where the config does not explain it."""
    parts = list(_parts(config._cfg_dict.to_dict()))
    if isinstance(error, FileNotFoundError):
        return _missing_file(error, parts)
    return _unknown_option(error, parts) or _unknown_type(error, parts)


def _unknown_option(error: Exception, parts: list[tuple[str, Any]]) -> str | None:
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    for key, part in parts if found else ():
        if not isinstance(part, Mapping) or found is None or found[1] not in part:
            continue
        component = _components().get(str(part.get("type")))
        known = accepted_options(component) if component is not None else []
        if known and found[1] not in known:
            return f"{key}: {part['type']} has no option {found[1]!r}{nearest(found[1], known)}"
    return None


def _unknown_type(error: Exception, parts: list[tuple[str, Any]]) -> str | None:
    components = _components()
    for key, part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(kind, str) or kind in components:
            continue
        if isinstance(error, TypeError) or kind in str(error):
            hint = nearest(kind, components)
            hint = hint if hint.startswith(",") else "; is the module that defines it in custom_imports?"
            return f"{key}: no component {kind!r} is registered{hint}"
    return None


def _missing_file(error: FileNotFoundError, parts: list[tuple[str, Any]]) -> str | None:
    if not error.filename:
        return None  # a message of ours, which says it all
    missing = str(error.filename)
    roots = [(key, part) for key, part in parts if isinstance(part, str) and part and missing.startswith(part)]
    if not roots:
        return f"{missing} does not exist"
    key, root = max(roots, key=lambda item: len(item[1]))
    return f"{missing} does not exist: put the data there, or set {key} (now {root!r})"


def _parts(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Walk through a config; yields each value under its dotted key."""
    yield key, value
    inner: Any = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        yield from _parts(part, f"{key}.{name}" if key else str(name))


def _components() -> dict[str, Any]:
    """Return everything that is registered, by its name with and without the scope."""
    registries = [value for module in (engine, own) for value in vars(module).values() if isinstance(value, Registry)]
    components: dict[str, Any] = {}
    for registry in registries:
        for scope in (registry, *registry.children.values()):
            components.update({f"{scope.scope}.{name}": kind for name, kind in scope.module_dict.items()})
            components.update(scope.module_dict)
    return components
