"""Schedules: how a loss weight changes over a run. Each maps :class:`Progress` to a factor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kd_mm.registry import SCHEDULES
from kd_mm.utils.suggest import choice


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        epoch: Zero-based epoch.
        iteration: Zero-based iteration over the run.
        max_epochs: Epochs of the run (1 where the run counts iterations).
        max_iterations: Iterations of the run.
    """

    epoch: int = 0
    iteration: int = 0
    max_epochs: int = 1
    max_iterations: int = 1


class Schedule:
    """Base: a callable from progress to a factor of the loss weight."""

    def __call__(self, progress: Progress) -> float:
        raise NotImplementedError


@SCHEDULES.register_module()
class LinearRamp(Schedule):
    """``r(e) = min(1, (e + 1) / E)``: linear growth from ``1 / E`` to 1, by epochs or by iterations.

    Give one of the three; 0 switches the ramp off.

    Args:
        epochs: E in epochs.
        iterations: E in iterations.
        fraction: E as a fraction of all iterations, in [0, 1], e as the iteration (ReviewKD and DKD ramp over 20 of 240
            epochs on CIFAR-100).

    Raises:
        ValueError: Not exactly one length was given, a negative one, or a fraction above 1.
    """

    def __init__(self, epochs: int | None = None, iterations: int | None = None, fraction: float | None = None) -> None:
        given = [length for length in (epochs, iterations, fraction) if length is not None]
        if len(given) != 1 or given[0] < 0:
            raise ValueError(
                f"LinearRamp takes one length, 0 or more: got epochs={epochs}, iterations={iterations}, "
                f"fraction={fraction}; set one that is inherited to None"
            )
        if fraction is not None and fraction > 1:
            raise ValueError(
                f"LinearRamp: fraction={fraction} is a part of the run, from 0 to 1; set epochs={fraction:g}"
            )
        self.epochs, self.iterations, self.fraction = epochs, iterations, fraction

    def __call__(self, progress: Progress) -> float:
        if self.epochs is not None:
            position, length = progress.epoch, float(self.epochs)
        elif self.iterations is not None:
            position, length = progress.iteration, float(self.iterations)
        else:
            position, length = progress.iteration, (self.fraction or 0) * progress.max_iterations
        return 1.0 if length <= 0 else min(1.0, (position + 1) / length)


@SCHEDULES.register_module()
class CosineDecay(Schedule):
    """``(1 + cos(pi (f - s) / (1 - s))) / 2`` from the fraction s of the run on, 1 before; f counts iterations.

    Args:
        start: s in [0, 1). Default: 0.

    Raises:
        ValueError: For another ``start``.
    """

    def __init__(self, start: float = 0.0) -> None:
        if not 0 <= start < 1:
            raise ValueError(f"CosineDecay: start={start} is a part of the run, from 0 to below 1")
        self.start = start

    def __call__(self, progress: Progress) -> float:
        done = progress.iteration / progress.max_iterations
        return 0.5 * (1 + math.cos(math.pi * max(0.0, done - self.start) / (1 - self.start)))


@SCHEDULES.register_module()
class PiecewiseConstant(Schedule):
    """Piecewise constant: ``levels[i]`` until ``bounds[i]`` of the run, the last level from then on.

    GPAC (Neural Networks 164, 2023) scales its attention loss so; the defaults are our reading. A level holds while
    ``e < bounds[i] * E`` for zero-based epoch e of E; where the run counts iterations, these.

    Args:
        levels: Factors, 0 or more, one more than there are bounds.
        bounds: Increasing; fractions of the run in (0, 1), or, in the ``"epochs"`` unit, zero-based epochs (e.g. where
            the learning rate steps).
        unit: ``"fraction"`` or ``"epochs"``.

    Raises:
        ValueError: Levels and bounds that do not go together, or an unknown unit.
    """

    def __init__(
        self,
        levels: Sequence[float] = (1.0, 0.5, 0.1),
        bounds: Sequence[float] = (1 / 3, 2 / 3),
        unit: str = "fraction",
    ) -> None:
        choice("PiecewiseConstant: unit", unit, ("fraction", "epochs"))
        increasing = all(first < second for first, second in zip((0, *bounds), bounds, strict=False))
        if len(levels) != len(bounds) + 1 or not increasing or min(levels) < 0:
            raise ValueError(
                f"PiecewiseConstant: levels={list(levels)} must be 0 or more and one more than "
                f"bounds={list(bounds)}, which must increase from above 0"
            )
        if unit == "fraction" and bounds and bounds[-1] >= 1:
            raise ValueError(
                f"PiecewiseConstant: bounds={list(bounds)} are fractions of the run, below 1; set unit='epochs'"
            )
        self.levels, self.bounds, self.unit = tuple(levels), tuple(bounds), unit

    def __call__(self, progress: Progress) -> float:
        position, length = progress.epoch, progress.max_epochs
        if self.unit == "epochs":
            length = 1
        elif length == 1:
            position, length = progress.iteration, progress.max_iterations
        # Thirds of a run end where its epochs do, in spite of rounding.
        return self.levels[sum(position >= bound * length - 1e-9 for bound in self.bounds)]
