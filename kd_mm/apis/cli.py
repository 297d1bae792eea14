"""What the command lines share: one clear line for what the user can mend."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from contextlib import AbstractContextManager
from traceback import walk_tb
from types import TracebackType
from typing import Any

from mmengine.config import DictAction

from kd_mm.apis.explain import said
from kd_mm.apis.imports import import_failure
from kd_mm.distillers.loss_monitor import NonFiniteLossError

#: Errors that what the user gave can cause, as far as they come before the first training step.
MENDABLE = (ValueError, TypeError, KeyError, OSError, ImportError, AssertionError)


class Overrides(DictAction):
    """Reads ``KEY=VALUE`` words; one that is not understood ends the program with one line.

    Values are numbers, words, ``None``, lists and tuples; a dict would be taken for a word.
    """

    def __call__(self, parser: ArgumentParser, namespace: Any, values: Any, option_string: str | None = None) -> None:
        read: dict[str, Any] = {}
        for word in values:
            try:
                super().__call__(parser, namespace, [word], option_string)
            except (ValueError, AssertionError, RecursionError):
                parser.exit(2, f"error: {option_string} {word}: write KEY=VALUE, e.g. train_cfg.max_epochs=2\n")
            key, _, value = word.partition("=")
            if value.startswith(("dict(", "{")):
                parser.exit(
                    2, f"error: {option_string} {word}: a dict is not read; write {key}.KEY=VALUE for each key\n"
                )
            read.update(getattr(namespace, self.dest))
        setattr(namespace, self.dest, read)


def add_common(parser: ArgumentParser) -> None:
    """Add the options that every tool over a config has."""
    parser.add_argument("--cfg-options", nargs="+", action=Overrides, metavar="KEY=VALUE", help="override config keys")
    add_traceback(parser)


def add_traceback(parser: ArgumentParser) -> None:
    """Add the option that :class:`ClearErrors` takes."""
    parser.add_argument("--traceback", action="store_true", help="show the whole traceback of an error")


class ClearErrors(AbstractContextManager):
    """Turns an error that the user can mend into one line on stderr and exit status 2.

    What a message shows beyond its first line, such as the table of stages, goes to stdout.

    An error in the middle of training keeps its traceback, except for a loss that is not finite: what happens after
    hours is worth more than one line.

    Args:
        traceback: Let every error through as it is.
    """

    def __init__(self, traceback: bool = False) -> None:
        self.traceback = traceback

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is None or self.traceback or not _mendable(error, where):
            return
        first, *more = (import_failure(error) or said(error)).splitlines()
        if more:
            sys.stdout.write("\n".join(more) + "\n")
            sys.stdout.flush()
        sys.stderr.write(f"error: {first.rstrip(':')}  (--traceback shows where)\n")
        sys.stderr.flush()
        sys.exit(2)


def _mendable(error: BaseException, where: TracebackType | None) -> bool:
    frames = [frame for frame, _ in walk_tb(where)]
    if isinstance(error, NonFiniteLossError):
        return True
    ours = bool(frames) and str(frames[-1].f_globals.get("__name__", "")).startswith("kd_mm.")
    if ours and isinstance(error, RuntimeError):
        return True
    return isinstance(error, MENDABLE) and not any(frame.f_code.co_name == "train_step" for frame in frames)
