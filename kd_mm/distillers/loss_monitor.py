"""Loss terms on the device, read once per logging interval, and the check of the first step."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kd_mm.losses import Loss
from kd_mm.utils.suggest import StepError, warn


class NonFiniteLossError(RuntimeError):
    """A loss term became infinite or NaN."""


class LossMonitor:
    """Collects every logged scalar on its device; hands out means over the interval with one device read.

    The engine reads each scalar that a train step returns, which costs one synchronisation a term and step. Here a step
    costs one operator; what was not finite, and when, is found at the read.

    Attributes:
        iteration: Set before each step (zero-based, over the run).
        report: Set before each step: whether this step is logged.
    """

    def __init__(self) -> None:
        self.iteration, self.report = 0, True
        self._names: list[str] = []
        self._steps: dict[int, Tensor] = {}

    def update(self, terms: Mapping[str, Tensor]) -> dict[str, float]:
        """Take the scalars of one step; return their means since the last report if this step is logged, else nothing.

        Raises:
            NonFiniteLossError: A term was not finite at some iteration since the last report (found when reporting).
        """
        if self._names != list(terms):
            self.check()
            self._names, self._steps = list(terms), {}
        self._steps[self.iteration] = torch.stack([value.detach() for value in terms.values()])
        if not self.report:
            return {}
        steps = self.check()
        self._steps = {}
        return {
            name: sum(values) / len(values) for name, values in zip(self._names, zip(*steps, strict=True), strict=True)
        }

    def check(self) -> list[list[float]]:
        """Read the device once and raise if any term has been infinite or NaN; called before a checkpoint is written.

        Returns:
            The terms of each step since the last report.

        Raises:
            NonFiniteLossError: With the name of the term, its stage and the iteration.
        """
        steps: list[list[float]] = torch.stack(list(self._steps.values())).tolist() if self._steps else []
        for iteration, values in zip(self._steps, steps, strict=True):
            bad = [name for name, value in zip(self._names, values, strict=True) if not math.isfinite(value)]
            if bad:
                raise NonFiniteLossError(describe_non_finite(bad, iteration))
        return steps


def describe_non_finite(names: list[str], iteration: int) -> str:
    """Return one line on terms of the log that are not finite at a zero-based iteration, and what to do.

    A sum is named where none of its parts is there.
    """
    parts = [name for name in names if "." in name] or [name for name in names if name != "loss"] or names
    where = ", ".join(f"{name.split('.')[0]} at {name.split('.')[1]}" if "." in name else name for name in parts)
    advice = "start anew or from an earlier one, with a lower learning rate or loss weight, or clip the gradient"
    if iteration == 0:  # nothing has been learnt that could have run away
        advice = "look at the data of the first step (boxes without an area, wrong labels) and at the loss weights"
    return (
        f"iteration {iteration + 1}: loss is not finite ({where}); training stops, no checkpoint of this state was "
        f"written: {advice}"
    )


def check_first_step(
    terms: Mapping[str, Tensor],
    losses: Mapping[str, Loss],
    records: Mapping[str, Tensor],
    weights: Mapping[str, float],
) -> None:
    """Check each loss in force by itself, by the terms of the first step, without touching any gradient.

    Raises:
        NonFiniteLossError: A term is infinite or NaN.
        StepError: A loss does not depend on the student.
    """
    tapped = [tensor for tensor in records.values() if tensor.requires_grad]
    for name, weight in weights.items():
        value = terms[f"loss_{name}"]
        parts = {key.partition(".")[2]: term for key, term in terms.items() if key.startswith(f"{name}.")}
        bad = [part for part, scalar in parts.items() if not torch.isfinite(scalar)]
        if bad or not torch.isfinite(value):
            raise NonFiniteLossError(f"first step: loss {name!r} is not finite (at {', '.join(bad) or 'its sum'})")
        if not losses[name].trains_student:
            continue
        gradients: Sequence[Tensor | None] = ()
        if value.requires_grad and tapped:
            gradients = torch.autograd.grad(value, tapped, retain_graph=True, allow_unused=True)
        reached = [gradient for gradient in gradients if gradient is not None]
        if not reached:
            raise StepError(
                f"first step: loss {name!r} does not reach the student: no gradient at "
                f"{', '.join(records) or 'any tap'}; its inputs are detached or come from a frozen part: drop the loss "
                "or give it other stages"
            )
        if not any(bool(gradient.any()) for gradient in reached):
            warn(
                f"first step: the gradient of loss {name!r} (weight {weight:g}) on the student is exactly zero; "
                "that is right only where student and teacher agree already, or no sample counts yet "
                "(samples='right_and_surer')"
            )
