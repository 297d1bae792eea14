"""Sending what a process writes to its console elsewhere, libraries in C included."""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def console_to(file: int, streams: tuple[int, ...] = (1, 2)) -> Iterator[None]:
    """Send everything that this process writes to its console to a file for a while.

    Args:
        file: An open file, by number.
        streams: 1 is stdout, 2 is stderr.
    """
    _flush()
    kept = [os.dup(number) for number in streams]
    for number in streams:
        os.dup2(file, number)
    try:
        yield
    finally:
        _flush()
        for number, old in zip(streams, kept, strict=True):
            os.dup2(old, number)
            os.close(old)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
