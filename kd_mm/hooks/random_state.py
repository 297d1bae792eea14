"""The random states of one process, as plain values that a checkpoint can hold."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

RandomState = dict[str, Any]


def capture_random_state(cuda: bool = True) -> RandomState:
    """Read the states of ``random``, ``numpy.random`` and ``torch``; nothing is drawn.

    Args:
        cuda: Also read the current CUDA device's state, where CUDA is in use. Defaults to True.

    Returns:
        Arrays and plain numbers. :func:`pack` makes it safe to store.
    """
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: RandomState = {
        "python": np.array(words, dtype=np.uint32),
        "python_gauss": (version, gauss),
        "numpy": np.array(keys, dtype=np.uint32),
        "numpy_gauss": (int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state().numpy(),
    }
    if cuda and torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state().numpy()
    return state


def restore_random_state(state: RandomState) -> None:
    """Set the states read by :func:`capture_random_state` (packed or not)."""
    state = unpack(state)
    version, gauss = state["python_gauss"]
    random.setstate((version, tuple(state["python"].tolist()), gauss))
    np.random.set_state(("MT19937", state["numpy"], *state["numpy_gauss"]))
    torch.set_rng_state(torch.from_numpy(state["torch"].copy()))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.from_numpy(state["cuda"].copy()))


def pack(state: RandomState) -> RandomState:
    """Turn arrays into tensors, so that ``torch.load(weights_only=True)`` reads them (torch has few 32-bit ops)."""

    def as_tensor(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return torch.from_numpy(value.astype(np.int64) if value.dtype == np.uint32 else value.copy())
        return value

    return {key: as_tensor(value) for key, value in state.items()}


def unpack(state: RandomState) -> RandomState:
    """Undo :func:`pack`, wherever ``map_location`` put the tensors."""

    def as_array(value: Any) -> Any:
        if isinstance(value, Tensor):
            array = value.cpu().numpy()
            return array.astype(np.uint32) if array.dtype == np.int64 else array
        return value

    return {key: as_array(value) for key, value in state.items()}
