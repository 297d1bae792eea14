"""Messages for wrong input: the nearest option or file, and what an error says."""

import ast
import difflib
import inspect
import logging
import textwrap
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

from mmengine.logging import print_log

#: Number of items that a message names before it counts the others.
NAMED = 4


@cache
def known_options(component: Callable[..., Any]) -> list[str] | None:
    """Return the options of a component, or ``None`` where it may take any.

    Further options (``**kwargs``) are those of all base classes where a constructor does nothing with them but hand
    them on to another constructor.
    """
    makers = [component]
    if inspect.isclass(component):
        makers = [vars(part)["__init__"] for part in inspect.getmro(component)[:-1] if "__init__" in vars(part)]
    names: dict[str, None] = {}
    closed = False
    for number, maker in enumerate(makers):
        try:
            parameters = inspect.signature(maker).parameters
            further = [each.name for each in parameters.values() if each.kind is each.VAR_KEYWORD]
            if further and not closed and not (inspect.isclass(component) and _only_hands_on(maker, further[0])):
                return None
        except (ValueError, TypeError, OSError):  # a builtin, or one without a source
            return None
        names.update(dict.fromkeys(name for name in parameters if name not in ("self", "args", *further)))
        if not further:
            closed = True
            if number == 0:
                break
    return list(names)


def _only_hands_on(maker: Callable[..., Any], further: str) -> bool:
    tree = ast.parse(textwrap.dedent(inspect.getsource(maker)))
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == further]
    handed = [
        option.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "__init__"
        for option in call.keywords
        if option.arg is None
    ]
    return all(node in handed for node in used)


def join_first(items: Sequence[str]) -> str:
    """Join the first few items for a message and count the others."""
    more = len(items) - NAMED
    return ", ".join(items[:NAMED]) + (f" and {more} more" if more > 0 else "")


def warn(line: str) -> None:
    """Write one line into the log of the run, as a warning."""
    print_log(line, "current", logging.WARNING)


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"``, or what there is where nothing comes near."""
    choices = list(dict.fromkeys(choices))
    near = difflib.get_close_matches(word, choices, n=1)
    if near:
        return f", did you mean {near[0]!r}?"
    listed = ", ".join(choices[:20]) + (", ..." if len(choices) > 20 else "")
    return f"; there are: {listed}" if choices else ""


def choice(option: str, value: str, choices: Collection[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ValueError: It is not; the message names the choices and the nearest one.
    """
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{option}={value!r} is unknown; choose one of {', '.join(map(repr, choices))}{hint}")
    return value


def check_options(component: Callable[..., Any], given: Iterable[str], what: str) -> None:
    """Stop at the first option that a component does not take.

    Raises:
        ValueError: Naming ``what``, the option and the nearest one.
    """
    known = known_options(component)
    if known is not None:
        check_names(known, given, what)


def check_names(known: Collection[str], given: Iterable[str], what: str) -> None:
    """Stop at the first option that is not among the ``known`` ones.

    Raises:
        ValueError: Naming ``what``, the option and the nearest one.
    """
    for option in given:
        if option not in known:
            raise ValueError(f"{what} has no option {option!r}{nearest(str(option), known)}")


def nearest_file(file: Path) -> str:
    """Return a hint on a file that does not exist: the nearest name in its folder, or where it was looked for."""
    folder = next((parent for parent in file.absolute().parents if parent.is_dir()), Path("/"))
    if folder != file.absolute().parent:
        return f" (there is no folder {file.absolute().parent})"
    names = {entry.stem: entry.name for entry in folder.iterdir() if entry.suffix == file.suffix}
    near = difflib.get_close_matches(file.stem, names, n=1)
    return f", did you mean {names[near[0]]!r}?" if near else f" (looked in {folder})"


class StepError(RuntimeError):
    """A training step cannot go on because of the config; the command line prints the message without a traceback."""


def missing_hook(what: str, hook: str, otherwise: str = "") -> StepError:
    """Return the error of a step that a hook has to precede; ``otherwise`` names another way."""
    return StepError(f"{what}: register the hook kd_mm.{hook} (default_hooks = {{{{_base_.kd_hooks}}}}){otherwise}")


def describe_error(error: Exception) -> str:
    """Return the message of an error; where it is nothing or the bare key of a KeyError, its kind."""
    if isinstance(error, KeyError) and error.args and "DataLoader worker" not in str(error.args[0]):
        return str(error.args[0]) if " " in str(error.args[0]).strip() else f"KeyError: {error.args[0]!r}"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{error.filename} does not exist"
    if isinstance(error, URLError):
        what = f"{error.filename}: {error}" if isinstance(error, HTTPError) else error.reason
        return (
            f"a download fails ({what}): where the machine has no connection, put the weights of load_from, init_cfg "
            "or --teacher-checkpoint into a file and give its path"
        )
    if isinstance(error, NotADirectoryError) and error.filename:
        return f"{error.filename} is a file, not a folder"
    if isinstance(error, IsADirectoryError) and error.filename:
        return f"{error.filename} is a folder: name a file in it"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    message = str(error).strip()
    if message.startswith("Caught ") and " in DataLoader worker " in message.splitlines()[0]:
        return f"in a worker of a data loader: {message.splitlines()[-1]}"
    return message or f"{type(error).__name__}{place(error)}"  # an assertion without words


def place(error: Exception) -> str:
    """Return where an error was raised, as part of a line; empty where that is not known."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" in {frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line}" if frames else ""
