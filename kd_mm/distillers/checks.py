"""What is checked once, on the first training step: every loss is finite and reaches the student with a gradient."""

from collections.abc import Mapping

import torch
from mmengine.logging import print_log
from torch import Tensor

from kd_mm.distillers.loss_monitor import NonFiniteLossError


def check_first_step(
    values: Mapping[str, tuple[Tensor, dict[str, Tensor]]], taken: Mapping[str, Tensor], weights: Mapping[str, float]
) -> None:
    """Check each active term by itself, without touching any gradient.

    Args:
        values: Unweighted value and parts of each active term.
        taken: What was read from the student, tap text to tensor.
        weights: Weight in force by term.

    Raises:
        NonFiniteLossError: A term is infinite or NaN on the first step.
        RuntimeError: A term does not depend on the student.
    """
    tapped = {tap: tensor for tap, tensor in taken.items() if tensor.requires_grad}
    for name, (value, parts) in values.items():
        bad = [part for part, scalar in parts.items() if not torch.isfinite(scalar)]
        if bad or not torch.isfinite(value):
            raise NonFiniteLossError(f"first step: loss {name!r} is not finite (at {', '.join(bad) or 'its sum'})")
        gradients: list[Tensor | None] = [None]
        if value.requires_grad and tapped:
            gradients = list(torch.autograd.grad(value, list(tapped.values()), retain_graph=True, allow_unused=True))
        reached = [gradient for gradient in gradients if gradient is not None]
        if not reached:
            raise RuntimeError(
                f"first step: loss {name!r} does not reach the student: no gradient at {', '.join(taken) or 'any tap'};"
                " "
                "its inputs are detached or come from a frozen part: drop the loss or give it other stages"
            )
        if not any(bool(gradient.any()) for gradient in reached):
            print_log(
                f"first step: the gradient of loss {name!r} (weight {weights[name]:g}) on the student is exactly zero; "
                "that is right only where student and teacher agree already",
                logger="current",
                level=30,
            )
