"""What the engine says of a config that it cannot build, said in the config's own words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine import registry as engine
from mmengine.config import Config
from mmengine.registry import Registry

from kd_mm import registry as own
from kd_mm.apis.place import Part, Place, config_parts, default_component, extra_options, find_place, in_training
from kd_mm.utils.suggest import accepted_options, nearest, takes_any_option


@contextmanager
def explaining(config: Config) -> Iterator[None]:
    """Say where in ``config`` an error of the engine comes from, where that can be told.

    Errors of a training step pass as they are.

    Raises:
        ValueError: What the config gave, with its key in the config, and the nearest choice for an unknown type or
            option.
    """
    try:
        yield
    except (TypeError, KeyError, ValueError, AssertionError, FileNotFoundError) as error:
        text = None if in_training(error.__traceback__) else explanation(error, config)
        if text is None:
            raise
        raise ValueError(text) from error


def explanation(error: Exception, config: Config) -> str | None:
    """Return one line on an error that a config caused, or None where the config does not explain it."""
    parts = list(config_parts(config._cfg_dict.to_dict()))
    if isinstance(error, FileNotFoundError):
        return _missing_file(error, parts)
    place = find_place(error.__traceback__, parts)
    return (
        _unknown_option(error, parts, place)
        or _unknown_type(error, parts, place)
        or _untyped(error, parts, place)
        or _lacking(error, place)
        or _incomplete(error, config)
        or _wrong_word(error, parts)
        or _anything(error, place)
    )


def unknown_option(config: Config, key: str) -> str | None:
    """Return one line on a key that the part of ``config`` it belongs to does not take, as far as that can be told.

    Args:
        config: Holds the part.
        key: Dotted; the key itself need not be set.
    """
    owner, _, option = key.rpartition(".")
    part = dict(config_parts(config._cfg_dict.to_dict())).get(owner)
    if not isinstance(part, Mapping) or option in part:
        return None
    component = _components().get(str(part.get("type"))) or default_component(owner, part)
    if component is None or takes_any_option(component):
        return None
    known = [*accepted_options(component), *extra_options(owner, part)]
    return (
        None if option in known else f"{key}: {_name(part, component)} has no option {option!r}{nearest(option, known)}"
    )


def _unknown_option(error: Exception, parts: list[Part], place: Place | None) -> str | None:
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if found is None:
        return None
    first = [(place.key, place.part)] if place is not None else []
    for key, part in (*first, *parts):
        if not isinstance(part, Mapping) or found[1] not in part:
            continue
        component = place.component if place is not None and key == place.key else None
        component = component or _components().get(str(part.get("type"))) or default_component(key, part)
        known = [*(accepted_options(component) if component is not None else []), *extra_options(key, part)]
        if known and found[1] not in known:
            return f"{key}: {_name(part, component)} has no option {found[1]!r}{nearest(found[1], known)}"
    return None


def _unknown_type(error: Exception, parts: list[Part], place: Place | None) -> str | None:
    components = _components()
    for key, part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(kind, str) or kind in components:
            continue
        if kind in str(error) or (isinstance(error, TypeError) and key.endswith("optimizer")):
            registry = place.registry if place is not None and place.key == key else None
            if key.endswith("optimizer"):  # looked up without being built
                registry = engine.OPTIMIZERS
            fitting = _names(registry) if registry is not None else []
            near = difflib.get_close_matches(kind, fitting, n=1) or difflib.get_close_matches(kind, components, n=1)
            hint = f", did you mean {near[0]!r}?" if near else "; is the module that defines it in custom_imports?"
            return f"{key}: no component {kind!r} is registered{hint}"
    return None


def _untyped(error: Exception, parts: list[Part], place: Place | None) -> str | None:
    """A part without a type, which is mostly a key beside the one that was meant."""
    if place is None or "must contain the key" not in str(error) or "type" in place.part:
        return None
    parent, _, name = place.key.rpartition(".")
    siblings = next((part for key, part in parts if key == parent), None)
    typed = [key for key, part in siblings.items() if isinstance(part, Mapping) and "type" in part] if siblings else []
    near = difflib.get_close_matches(name, [key for key in typed if key != name], n=1)
    return f"{place.key} has no type" + (f", did you mean {near[0]!r}?" if near else "")


def _lacking(error: Exception, place: Place | None) -> str | None:
    found = re.search(r"missing \d+ required (?:positional|keyword-only) arguments?: (.+)$", str(error))
    if found is None or place is None:
        return None
    return f"{place.key}: {_name(place.part, place.component)} needs {found[1]}"


def _incomplete(error: Exception, config: Config) -> str | None:
    """Loader, loop and evaluator, of which the engine wants all or none; its message holds all of them."""
    found = re.match(r"(\w+), (\w+), and (\w+) should be\s+either all None", str(error))
    if found is None:
        return None
    lacking = [key for key in found.groups() if config.get(key) is None]
    given = [key for key in found.groups() if key not in lacking]
    return f"{' and '.join(given)} without {' and '.join(lacking)}: give all three, or set all three to None"


def _wrong_word(error: Exception, parts: list[Part]) -> str | None:
    """A word of the config that something was looked up by, in vain."""
    if not isinstance(error, KeyError) or not error.args or not isinstance(error.args[0], str):
        return None
    keys = [key for key, part in parts if part == error.args[0]]
    return f"{keys[0]}: there is no {error.args[0]!r}" if len(keys) == 1 else None


def _anything(error: Exception, place: Place | None) -> str | None:
    """The message as it is, after the key of what was being built."""
    if place is None or place.key in str(error):
        return None
    # Messages of ours say where they belong, except that a loss does not know its name in the recipe.
    if place.ours and not place.key.startswith("model.recipe."):
        return None
    quoted = re.findall(r"'([^']*)'", str(error))
    values = [name for name, value in place.part.items() if isinstance(value, str) and value in quoted]
    named = len(values) == 1 and values[0] not in str(error)  # the option whose value the message shows
    return f"{place.key}{f'.{values[0]}' if named else ''}: {said(error)}"


def said(error: BaseException) -> str:
    """Return the message of an error; where it is nothing, or the bare key of a KeyError, with the kind of error."""
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0]) if " " in str(error.args[0]).strip() else f"KeyError: {error.args[0]!r}"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{error.filename} does not exist"
    return str(error).strip() or type(error).__name__


def _missing_file(error: FileNotFoundError, parts: list[Part]) -> str | None:
    if not error.filename:
        return None  # a message of ours, which says it all
    missing = str(error.filename)
    roots = [(key, part) for key, part in parts if isinstance(part, str) and part and missing.startswith(part)]
    if not roots:
        return f"{missing} does not exist"
    key, root = max(roots, key=lambda item: len(item[1]))
    return f"{missing} does not exist: put the data there, or set {key} (now {root!r})"


def _name(part: Mapping[str, Any], component: Any) -> str:
    kind = part.get("type")
    return kind if isinstance(kind, str) else str(getattr(component, "__name__", "this part"))


def _components() -> dict[str, Any]:
    """Return everything that is registered, by its name with and without the scope."""
    registries = [value for module in (engine, own) for value in vars(module).values() if isinstance(value, Registry)]
    components: dict[str, Any] = {}
    for registry in registries:
        for scope in (registry, *registry.children.values()):
            components.update({f"{scope.scope}.{name}": kind for name, kind in scope.module_dict.items()})
            components.update(scope.module_dict)
    return components


def _names(registry: Registry) -> list[str]:
    """Return the names that a registry finds, its parent's and children's included, with and without the scope."""
    related = [registry, *registry.children.values()]
    if registry.parent is not None:
        related += [registry.parent, *registry.parent.children.values()]
    return [name for scope in related for short in scope.module_dict for name in (short, f"{scope.scope}.{short}")]
