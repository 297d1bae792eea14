"""The numeric setting that every stand-in operator runs in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def like_compiled_op(function: Callable[P, R]) -> Callable[P, R]:
    """Run an operator as a compiled one runs: outside autograd and autocast.

    A compiled kernel sees the tensors it is given and nothing else. Plain torch code inside an AMP region would
    be cast to half precision op by op, and would record a graph that nobody uses.

    Args:
        function: The operator; its first argument is a tensor.

    Returns:
        The operator, to be called in the same way.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        first = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.no_grad(), torch.autocast(first.device.type, enabled=False):
            return function(*args, **kwargs)

    return wrapper


def to_at_least_float32(tensor: Tensor) -> Tensor:
    """Bring half precision to float32 and leave float32 and float64 alone.

    Args:
        tensor: Any shape, floating point.

    Returns:
        The same values as float32 or float64; no copy where the dtype is wide already.
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
