"""Schedules: how a loss weight changes over a run. Each maps :class:`Progress` to a factor."""

from collections.abc import Sequence
from dataclasses import dataclass

from kd_mm.registry import SCHEDULES


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        epoch: Zero-based epoch.
        iteration: Zero-based iteration over the whole run.
        max_epochs: Epochs of the whole run (1 where the run counts iterations).
        max_iterations: Iterations of the whole run.
    """

    epoch: int = 0
    iteration: int = 0
    max_epochs: int = 1
    max_iterations: int = 1


class Schedule:
    """Base: a callable from progress to a factor of the loss weight."""

    def __call__(self, progress: Progress) -> float:
        raise TypeError(f"{type(self).__name__} defines no __call__")


@SCHEDULES.register_module()
class LinearRamp(Schedule):
    """``r(e) = min(1, (e + 1) / E)``: linear growth from ``1 / E`` to 1, by epochs or by iterations.

    Give one of the three; 0 switches the ramp off (factor 1 from the start).

    Args:
        epochs: E in epochs (ReviewKD and DKD ramp over 20 epochs on CIFAR-100).
        iterations: E in iterations.
        fraction: E as a fraction of all iterations, in [0, 1].

    Raises:
        ValueError: Not exactly one length was given, or a negative one.
    """

    def __init__(self, epochs: int | None = None, iterations: int | None = None, fraction: float | None = None) -> None:
        given = [length for length in (epochs, iterations, fraction) if length is not None]
        if len(given) != 1 or given[0] < 0:
            raise ValueError(
                f"LinearRamp takes one length, 0 or more: got epochs={epochs}, iterations={iterations}, "
                f"fraction={fraction}"
            )
        self.epochs, self.iterations, self.fraction = epochs, iterations, fraction

    def __call__(self, progress: Progress) -> float:
        if self.epochs is not None:
            return _ramp(progress.epoch, self.epochs)
        length = self.iterations if self.iterations is not None else (self.fraction or 0) * progress.max_iterations
        return _ramp(progress.iteration, length)


@SCHEDULES.register_module()
class StepDecay(Schedule):
    """Factor ``gamma ** (milestones passed)``; Channel Distillation decays so, 0.9 at the learning rate's steps.

    Args:
        milestones: Zero-based epochs from which the next step holds.
        gamma: Factor of each step.
    """

    def __init__(self, milestones: Sequence[int], gamma: float = 0.9) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma

    def __call__(self, progress: Progress) -> float:
        return self.gamma ** sum(progress.epoch >= milestone for milestone in self.milestones)


def _ramp(position: int, length: float) -> float:
    return 1.0 if length <= 0 else min(1.0, (position + 1) / length)
