"""Reading hundreds of configs that share their bases: what a shipped file comes to is worked out once in a process."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

from mmengine import Config

_read = cache(Config._file2dict)


def _read_once(filename: str, *args: Any, **options: Any) -> Any:
    return copy.deepcopy(_read(filename, *args, **options))


@contextmanager
def each_base_once() -> Iterator[None]:
    """Let the engine's reader keep what it made of a file, for the next config that inherits from it."""
    with mock.patch.object(Config, "_file2dict", _read_once):
        yield
