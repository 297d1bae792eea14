"""Keeps standard output clean while upstream is imported: tools write JSON there."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys

#: A message that mmpretrain 1.3.6 means for its debug log, and prints where the optional package is missing.
_MEANT_FOR_DEBUGGING = "Could not import OneDL"


def import_quietly(module: str) -> None:
    """Import a module of upstream; what it prints goes to standard error, without its debug message."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            importlib.import_module(module)
    finally:
        lines = said.getvalue().splitlines(keepends=True)
        sys.stderr.writelines(line for line in lines if line.strip() != _MEANT_FOR_DEBUGGING)
