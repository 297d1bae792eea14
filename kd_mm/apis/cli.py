"""What the command lines share: one clear line for what the user can mend."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from mmengine.config import DictAction

from kd_mm.distillers.monitor import NonFiniteLossError

#: Errors whose message is written for the user.
MENDABLE = (
    ValueError,
    FileNotFoundError,
    NotADirectoryError,
    NonFiniteLossError,
    KeyError,
    ImportError,
    OSError,
    TypeError,
)


def add_common(parser: ArgumentParser) -> None:
    """Add the options that every tool over a config has."""
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE", help="override config keys")
    parser.add_argument("--traceback", action="store_true", help="show the whole traceback of an error")


class ClearErrors(AbstractContextManager):
    """Turns an error that the user can mend into one line on stderr and exit status 2.

    Args:
        traceback: Let the error through as it is.
    """

    def __init__(self, traceback: bool = False, leave: Callable[[int], object] = sys.exit) -> None:
        self.traceback, self.leave = traceback, leave

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool:
        if error is None or self.traceback or not isinstance(error, MENDABLE):
            return False
        # The engine's registry prefixes the class it was building; the line is clearer without.
        text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
        while text.startswith("class `") and ".py: " in text:
            text = text.split(".py: ", 1)[1]
        sys.stderr.write(f"error: {text or type(error).__name__}  (--traceback shows where)\n")
        sys.stderr.flush()
        self.leave(2)
        return True
