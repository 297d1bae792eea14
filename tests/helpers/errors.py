"""How wrong input ends."""

from collections.abc import Callable
from typing import Any

import pytest


def assert_refused(pattern: str, function: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Assert that a call raises a ValueError of one line in which the pattern is found."""
    with pytest.raises(ValueError, match=pattern) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)
