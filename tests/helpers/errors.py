"""How wrong input ends."""

import re
from collections.abc import Callable
from typing import Any

import pytest


def assert_refused(pattern: str, function: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Assert that a call raises a ValueError of one line in which the pattern is found."""
    try:
        function(*args, **options)
    except ValueError as error:
        assert re.search(pattern, str(error)), f"{pattern!r} is not in {str(error)!r}"
        assert "\n" not in str(error)
    else:
        pytest.fail(f"accepted, in spite of {pattern!r}")
