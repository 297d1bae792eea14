"""Operators that do everything twice: as they were called, and with copies of their tensors on another device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from tests.ops.wrapping import wrapped

#: How far values may lie apart, by precision; what is narrower than float32 is rounded after wide arithmetic.
APART = {
    torch.float64: (1e-9, 1e-9),
    torch.float32: (2e-4, 2e-5),
    torch.float16: (4e-3, 2e-3),
    torch.bfloat16: (3e-2, 1e-2),
}


@contextmanager
def mirrored(extension: Any, names: Iterable[str], device: str) -> Iterator[set[str]]:
    """Let operators of a module run on a second device too, and compare what they return and what they write.

    Args:
        extension: Holds the operators as attributes.
        names: Theirs.
        device: Where copies of the tensors go.

    Yields:
        A set that collects the names of the operators that ran twice.

    Raises:
        AssertionError: From the operator's call; names it.
    """
    ran: set[str] = set()

    def twice(name: str, operator: Callable[..., Any]) -> Callable[..., Any]:
        def both(*args: Any, **kwargs: Any) -> Any:
            tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
            if not tensors or any(tensor.device.type != "cpu" for tensor in tensors):
                return operator(*args, **kwargs)
            ran.add(name)
            there_args, there_kwargs = tree_map_only(Tensor, lambda t: t.detach().to(device, copy=True), (args, kwargs))
            here = operator(*args, **kwargs)
            there = operator(*there_args, **there_kwargs)
            _compare(name, (here, args, kwargs), (there, there_args, there_kwargs), device)
            return here

        return both

    with wrapped(extension, names, twice):
        yield ran


def _compare(name: str, here: Any, there: Any, device: str) -> None:
    ours, theirs = tree_flatten(here)[0], tree_flatten(there)[0]
    assert len(ours) == len(theirs), name
    for one, other in zip(ours, theirs, strict=True):
        if not isinstance(one, Tensor):
            assert one == other, name
            continue
        assert other.device.type == device, f"{name} on {device} gives a tensor on {other.device}"
        assert one.dtype == other.dtype, name
        relative, absolute = APART.get(one.dtype, (0, 0))
        torch.testing.assert_close(
            other.cpu(),
            one.detach(),
            rtol=relative,
            atol=absolute,
            equal_nan=True,
            msg=lambda text: f"{name} differs on {device}: {text}",
        )
