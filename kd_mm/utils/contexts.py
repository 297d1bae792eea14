"""States that hold for a block and are restored after it: eval mode of a network, global random states."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


def capture_random_state() -> dict[str, Any]:
    """Return the states of ``random``, ``numpy.random``, torch and, where it is in use, the current CUDA device.

    Nothing is drawn. The values are plain numbers and bytes, which checkpoints and worker processes can carry.
    """
    version, words, gauss = random.getstate()
    _, keys, *position = np.random.get_state()
    state = {
        "python": (version, np.array(words, np.uint32).tobytes(), gauss),
        "numpy": (np.asarray(keys).tobytes(), *map(float, position)),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state().numpy().tobytes()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Set the states that :func:`capture_random_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(np.frombuffer(words, np.uint32).tolist()), gauss))
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", np.frombuffer(keys, np.uint32), int(position), int(has_gauss), gauss))
    torch.set_rng_state(torch.frombuffer(bytearray(state["torch"]), dtype=torch.uint8))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.frombuffer(bytearray(state["cuda"]), dtype=torch.uint8))


@contextmanager
def isolated_rng(name: str, seed: int = 0) -> Iterator[None]:
    """Run a block under random states seeded from ``name`` and ``seed``; restore Python's, NumPy's and torch's after.

    A part that is built under its own name is initialised alike whatever other parts exist.
    """
    number = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "little")
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        random.seed(number)
        np.random.seed(number)
        if torch.cuda.is_initialized():
            torch.manual_seed(number)
        else:  # CUDA would take this seed when it starts, in place of the run's own
            torch.default_generator.manual_seed(number)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode without gradients; each submodule gets its own training flag back after."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags.items():
            module.training = training
