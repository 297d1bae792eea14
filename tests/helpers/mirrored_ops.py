"""Wrappers around the operators of mmcv's extension: run them on a second device too, or record which ones run."""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

Operator = Callable[..., Any]
Wrap = Callable[[str, Operator], Operator]
#: Relative and absolute tolerance by dtype; half precision is rounded after float32 arithmetic.
TOLERANCES = {
    torch.float64: (1e-9, 1e-9),
    torch.float32: (2e-4, 2e-5),
    torch.float16: (4e-3, 2e-3),
    torch.bfloat16: (3e-2, 1e-2),
}


@contextmanager
def wrapped_operators(extension: Any, names: Iterable[str], wrap: Wrap) -> Iterator[None]:
    """Replace each named attribute of a module with ``wrap(name, operator)`` within a block."""
    originals = {name: getattr(extension, name) for name in names}
    for name, operator in originals.items():
        setattr(extension, name, functools.wraps(operator)(wrap(name, operator)))
    try:
        yield
    finally:
        for name, operator in originals.items():
            setattr(extension, name, operator)


@contextmanager
def mirrored(extension: Any, names: Iterable[str], device: str) -> Iterator[set[str]]:
    """Run named operators of a module on a second device too, and compare their results and buffers in each call.

    Yields the set of the names of the operators that ran twice.
    """
    ran: set[str] = set()

    def copy_to_device(tensor: Tensor) -> Tensor:
        return tensor.detach().to(device, copy=True)

    def twice(name: str, operator: Operator) -> Operator:
        def both(*args: Any, **kwargs: Any) -> Any:
            tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
            if not tensors or any(tensor.device.type != "cpu" for tensor in tensors):
                return operator(*args, **kwargs)
            ran.add(name)
            second_args, second_kwargs = tree_map_only(Tensor, copy_to_device, (args, kwargs))
            first = operator(*args, **kwargs)
            second = operator(*second_args, **second_kwargs)
            _compare(name, (first, args, kwargs), (second, second_args, second_kwargs), device)
            return first

        return both

    with wrapped_operators(extension, names, twice):
        yield ran


def _compare(name: str, first: Any, second: Any, device: str) -> None:
    for one, other in zip(tree_flatten(first)[0], tree_flatten(second)[0], strict=True):
        if not isinstance(one, Tensor):
            assert one == other, name
            continue
        assert other.device.type == device, f"{name} on {device} gives a tensor on {other.device}"
        assert one.dtype == other.dtype, name
        relative, absolute = TOLERANCES.get(one.dtype, (0, 0))
        torch.testing.assert_close(
            other.cpu(),
            one.detach(),
            rtol=relative,
            atol=absolute,
            equal_nan=True,
            msg=lambda text: f"{name} differs on {device}: {text}",
        )
