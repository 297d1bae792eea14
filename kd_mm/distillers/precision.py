"""The type that the weights of a frozen network are stored in and that it computes in."""

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
#: Types of autocast.
HALF = (torch.float16, torch.bfloat16)
# Layers that pass their weight to one operator, which autocast runs in half precision. Subclasses may do more with it
# (standardise or normalise it) and stay as they are.
_CAST_BY_AUTOCAST = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def store_weights(networks: Iterable[nn.Module], dtype: torch.dtype) -> None:
    """Store the weights that autocast would cast in each step in its type; norms stay in float32."""
    for network in networks:
        for layer in network.modules():
            if type(layer) in _CAST_BY_AUTOCAST:
                layer.to(dtype)


def computing_in(dtype: torch.dtype | None, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which a network of a type runs: autocast for half precision, none around it for others.

    ``None`` leaves the context as it is.
    """
    if dtype is None:
        return contextlib.nullcontext()
    half = dtype in HALF
    return torch.autocast(device.type, dtype=dtype if half else None, enabled=half)
