"""Operators of mmcv's extension, wrapped for a while."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

Operator = Callable[..., Any]


@contextmanager
def wrapped(extension: Any, names: Iterable[str], wrap: Callable[[str, Operator], Operator]) -> Iterator[None]:
    """Put ``wrap(name, operator)`` in the place of each named attribute of a module, and take it away at the end."""
    before = {name: getattr(extension, name) for name in names}
    for name, operator in before.items():
        setattr(extension, name, functools.wraps(operator)(wrap(name, operator)))
    try:
        yield
    finally:
        for name, operator in before.items():
            setattr(extension, name, operator)
