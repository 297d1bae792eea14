"""What the command lines share: options, and one clear line for wrong input."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

from mmengine.config import DictAction


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
    """Add the option that :func:`run` reads."""
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")


def run(command: Callable[[Namespace], object], args: Namespace) -> int:
    """Run a command; wrong input becomes one line on standard error.

    Errors of a training step are no wrong input and keep their traceback (:class:`kd_mm.apis.runner.StepError`).
    Of a message of several lines, such as one with the table of stages, the rest goes to standard output.

    Args:
        command: Takes the parsed arguments.
        args: With ``traceback`` every error passes as it is.

    Returns:
        The exit status: 0, or 2 for wrong input.
    """
    from kd_mm.apis.cli import ClearErrors

    try:
        with ClearErrors(args.traceback):
            command(args)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0
