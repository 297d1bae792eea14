"""The nearest right choice: to an option that a component does not take, to a file that does not exist."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def accepted_options(component: Callable[..., Any]) -> list[str]:
    """Return the names of a constructor's arguments, those that it passes on to its base classes included."""
    names: dict[str, None] = {}
    for part in getattr(component, "__mro__", (component,)):
        if inspect.isclass(part) and "__init__" not in vars(part):
            continue
        parameters = inspect.signature(vars(part)["__init__"] if inspect.isclass(part) else part).parameters
        names.update(dict.fromkeys(name for name in parameters if name != "self"))
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return [name for name in names if name not in ("args", "kwargs")]


def takes_any_option(component: Callable[..., Any]) -> bool:
    """Return whether a constructor takes options of any name, beside those that it and its base classes write down."""
    parts = [part for part in getattr(component, "__mro__", (component,)) if part is not object]
    makers = [vars(part).get("__init__") if inspect.isclass(part) else part for part in parts]
    signatures = [inspect.signature(maker).parameters.values() for maker in makers if maker is not None]
    return all(any(each.kind is each.VAR_KEYWORD for each in parameters) for parameters in signatures)


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"``, or what there is where nothing comes near."""
    choices = list(dict.fromkeys(choices))
    near = difflib.get_close_matches(word, choices, n=1)
    if near:
        return f", did you mean {near[0]!r}?"
    shown = ", ".join(choices[:20]) + (", ..." if len(choices) > 20 else "")
    return f"; there are: {shown}" if choices else ""


def check_options(component: Callable[..., Any], given: Iterable[str], what: str) -> None:
    """Stop at the first option that a component does not take.

    Raises:
        ValueError: Naming ``what``, the option and the nearest one.
    """
    known = accepted_options(component)
    for option in given:
        if option not in known:
            raise ValueError(f"{what} has no option {option!r}{nearest(option, known)}")


def nearest_file(file: Path) -> str:
    """Return a hint on a file that does not exist: the nearest name in its folder, or where it was looked for."""
    folder = next((parent for parent in file.absolute().parents if parent.is_dir()), Path("/"))
    if folder != file.absolute().parent:
        return f" (there is no folder {file.absolute().parent})"
    names = {entry.stem: entry.name for entry in folder.iterdir() if entry.suffix == file.suffix}
    near = difflib.get_close_matches(file.stem, names, n=1)
    return f", did you mean {names[near[0]]!r}?" if near else f" (looked in {folder})"
