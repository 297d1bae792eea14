"""Deterministic test tensors."""

import math

import torch
from torch import Tensor, nn


def wave(*shape: int, pace: float = 1.0, size: float = 1.0) -> Tensor:
    """Return float64 numbers of an amplitude that look random; different frequencies give unrelated tensors."""
    x = torch.arange(math.prod(shape), dtype=torch.float64)
    return size * torch.sin(pace * x + 0.3 * torch.cos(0.7 * x)).view(shape)


def fill_with_waves(module: nn.Module, pace: float, step: float = 0.1, size: float = 1.0) -> None:
    """Set the k-th parameter of ``module`` to a wave of ``pace + k * step``."""
    for k, parameter in enumerate(module.parameters()):
        parameter.data.copy_(wave(*parameter.shape, pace=pace + step * k, size=size))
