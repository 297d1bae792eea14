"""The memory format in which a branch of the network runs, beside a network of another."""

from typing import Any

import torch
from torch import Tensor


class _ToChannelsLast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, feature: Tensor) -> Tensor:
        return feature.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # In the network's own format: where two gradients of unlike formats meet, their sum and all behind it is slow.
        return gradient.contiguous()


def fast_pooling(feature: Tensor) -> Tensor:
    """Return a map ``(B, C, H, W)`` in the memory format in which layers on top of it, then pooled, run fastest.

    That is ``channels_last`` on the CPU, for the pooled branch alone: the gradient comes back in the plain format.
    """
    if not feature.is_cpu or not feature.is_contiguous():
        return feature
    return _ToChannelsLast.apply(feature)
