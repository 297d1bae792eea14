"""Focal loss (Lin et al., ICCV 2017) with a sigmoid for each class or one softmax over the classes.

The logarithm's argument is bounded below by the smallest normal float32, in value and gradient, as upstream does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kd_mm.ops._dtype import like_compiled_op, to_at_least_float32

_TINY = torch.finfo(torch.float32).tiny


def _log(probability: Tensor) -> Tensor:
    return probability.clamp(min=_TINY).log()


def _row_weight(weight: Tensor, target: Tensor, like: Tensor) -> Tensor:
    """Weight `(N,)` of each row's class; rows of no class weigh 1, where upstream reads past the end."""
    if weight.numel() == 0:
        return like.new_ones(target.shape)
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, weight.to(like.dtype)[target.clamp(0, len(weight) - 1)], 1.0)


def _split(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probability, its complement, and which entry is the row's own class, each `(N, C)`."""
    probability = 1 / (1 + torch.exp(-logits))
    own = target[:, None] == torch.arange(logits.shape[1], device=logits.device)
    return probability, 1 - probability, own


@like_compiled_op
def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of independent classes, not reduced (`mmcv.ops.sigmoid_focal_loss`).

    Args:
        input: `(N, C)` logits.
        target: `(N,)` int64 class; a row whose class is not in `[0, C)` is background.
        weight: `(C,)` class weights, or empty for none.
        output: Result buffer `(N, C)`.
        gamma: Focusing exponent.
        alpha: Share of the row's own class; the others get `1 - alpha`.
    """
    logits = to_at_least_float32(input)
    right, wrong, own = _split(logits, target)
    positive = -alpha * wrong.pow(gamma) * _log(right)
    negative = -(1 - alpha) * right.pow(gamma) * _log(wrong)
    output.copy_(torch.where(own, positive, negative) * _row_weight(weight, target, logits)[:, None])


@like_compiled_op
def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivative of `sigmoid_focal_loss_forward` by the logits to `grad_input` `(N, C)`."""
    logits = to_at_least_float32(input)
    right, wrong, own = _split(logits, target)
    positive = -alpha * wrong.pow(gamma) * (wrong - gamma * right * _log(right))
    negative = -(1 - alpha) * right.pow(gamma) * (gamma * wrong * _log(wrong) - right)
    grad_input.copy_(torch.where(own, positive, negative) * _row_weight(weight, target, logits)[:, None])


def _own(softmax: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Probability `(N,)` of each row's class, and the class cut to the valid range."""
    column = target.clamp(0, softmax.shape[1] - 1)
    return softmax.gather(1, column[:, None]).squeeze(1), column


@like_compiled_op
def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of exclusive classes, not reduced (`mmcv.ops.softmax_focal_loss`).

    Args:
        input: `(N, C)` probabilities after the wrapper's softmax.
        target: `(N,)` int64 class; rows with a negative class count nothing.
        weight: `(C,)` class weights, or empty for none.
        output: Result buffer `(N,)`.
        gamma: Focusing exponent.
        alpha: Factor of the loss.
    """
    probability, _ = _own(to_at_least_float32(input), target)
    loss = -alpha * (1 - probability).pow(gamma) * _log(probability)
    output.copy_(torch.where(target >= 0, loss, 0.0) * _row_weight(weight, target, loss))


@like_compiled_op
def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivative of `softmax_focal_loss_forward` by the logits to `grad_input` `(N, C)`.

    `buff` `(N,)` receives each row's factor: the derivative by the logit of its own class over `1 - p`.
    """
    softmax = to_at_least_float32(input)
    probability, column = _own(softmax, target)
    wrong = 1 - probability
    factor = -wrong.pow(gamma)
    if gamma != 0:
        factor = factor + gamma * wrong.pow(gamma - 1) * probability * _log(probability)
    factor = torch.where(target >= 0, alpha * factor, 0.0) * _row_weight(weight, target, softmax)
    own = column[:, None] == torch.arange(softmax.shape[1], device=softmax.device)
    buff.copy_(factor)
    grad_input.copy_(factor[:, None] * (own.to(softmax.dtype) - softmax))
