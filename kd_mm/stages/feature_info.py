"""What one tensor of a network is: its layout, its width and its grid, read from its shape alone."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

# Class, distillation and register tokens together; more of them than this and the length is no grid of patches.
MAX_EXTRA_TOKENS = 16


@dataclass(frozen=True)
class TensorLayout:
    """Layout and size of one tensor, in the words of :class:`kd_mm.stages.Stage`.

    Attributes:
        items: Where the tensor lies in what the module returned, ``()`` for a bare tensor.
        never_negative: No value is below zero and one is above it.
    """

    layout: str
    channels: int
    height: int
    width: int
    extra_tokens: int = 0
    items: tuple[int, ...] = ()
    never_negative: bool = False

    @property
    def cells(self) -> int:
        """Number of cells of the grid, the resolution as one number."""
        return self.height * self.width


@dataclass
class TracedBatch:
    """The batch that is being traced, and the map grids met so far: what a sequence of tokens is measured against."""

    batch: int
    height: int
    width: int
    grids: set[tuple[int, int]] = field(default_factory=set)

    def read(self, value: Any, context: Any = ()) -> list[TensorLayout]:
        """Return a reading for each feature among the tensors in ``value`` (a tensor, or nested tuples and lists).

        Args:
            value: What a module took or returned.
            context: Further arguments of the module, searched for a grid ``(height, width)`` that it was given.
        """
        hints = [*_grids_in(value), *_grids_in(context)]
        found = [(items, tensor, self._measure(tensor, hints)) for items, tensor in _tensors_in(value)]
        return [
            replace(reading, items=items, never_negative=_never_negative(tensor))
            for items, tensor, reading in found
            if reading is not None
        ]

    def _measure(self, tensor: Tensor, hints: Sequence[tuple[int, int]]) -> TensorLayout | None:
        if not tensor.is_floating_point() or tensor.ndim not in (3, 4) or tensor.shape[0] != self.batch:
            return None
        if tensor.ndim == 4:
            _, first, second, third = tensor.shape
            if self._has_aspect(second, third):
                self.grids.add((second, third))
                return TensorLayout("map", first, second, third)
            if self._has_aspect(first, second):
                return TensorLayout("channels_last", third, first, second)
            return None
        _, length, channels = tensor.shape
        grid = self._token_grid(length, hints)
        return None if grid is None else TensorLayout("tokens", channels, *grid, length - grid[0] * grid[1])

    def _has_aspect(self, height: int, width: int) -> bool:
        # Padding and rounding at each step move a side by a cell at most.
        tall = height <= self.height + 1 and width <= self.width + 1
        return tall and abs(height * self.width - width * self.height) <= max(self.height, self.width)

    def _token_grid(self, length: int, hints: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
        """Return the grid that ``length`` tokens form: the module's, else that of a map, else of input aspect."""
        step = math.gcd(self.height, self.width)
        exact = [(self.height // step * k, self.width // step * k) for k in range(1, step + 1)]
        rounded = [(h, math.ceil(h * self.width / self.height)) for h in range(1, self.height + 1)]
        for grids in (hints, self.grids, exact, rounded):
            fitting = [grid for grid in grids if 0 <= length - grid[0] * grid[1] <= MAX_EXTRA_TOKENS]
            if fitting:
                return max(fitting, key=lambda grid: grid[0] * grid[1])
        return None


def _tensors_in(value: Any, items: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    if isinstance(value, Tensor):
        yield items, value
    elif isinstance(value, tuple | list):
        for index, element in enumerate(value):
            yield from _tensors_in(element, (*items, index))


def _grids_in(value: Any) -> Iterator[tuple[int, int]]:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, tuple | list):
        return
    if len(value) == 2 and all(isinstance(side, int) and side > 0 for side in value):
        yield int(value[0]), int(value[1])
        return
    for element in value:
        yield from _grids_in(element)


def _never_negative(tensor: Tensor) -> bool:
    if not tensor.numel():
        return False
    lowest, highest = torch.aminmax(tensor)
    return bool(lowest >= 0) and bool(highest > 0)
