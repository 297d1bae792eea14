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


def runs_faster_last(device: str, dtype: torch.dtype | None) -> bool:
    """Return whether convolutions and pooling run faster in ``channels_last`` on a device (``"cpu"``, ``"cuda"``).

    They do on CPUs, and on GPUs in half precision, which is what tensor cores read.
    """
    narrow = dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled(device)
    return device == "cpu" or (device == "cuda" and narrow)


def fast_pooling(feature: Tensor) -> Tensor:
    """Return a map ``(B, C, H, W)`` in the memory format in which layers on top of it, then pooled, run fastest.

    Where that is ``channels_last`` it is so for the pooled branch alone: the gradient comes back in the plain format.
    """
    if not feature.is_contiguous() or not runs_faster_last(feature.device.type, feature.dtype):
        return feature
    return _ToChannelsLast.apply(feature)
