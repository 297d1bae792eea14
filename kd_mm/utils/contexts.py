"""States of networks: eval mode and global random states for a block, the network inside of a parallel wrapper."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn


def capture_random_state() -> dict[str, Any]:
    """Return the states of ``random``, ``numpy.random``, torch and, where it is in use, the current CUDA device.

    Nothing is drawn. The values are tensors and plain numbers, as a checkpoint that is loaded safely can hold them.
    """
    name, keys, *position = np.random.get_state()
    numpy_state = (name, np.asarray(keys).tolist(), *position)
    state = {"python": random.getstate(), "numpy": numpy_state, "torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Set the states that :func:`capture_random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@contextmanager
def isolated_rng(name: str, seed: int = 0) -> Iterator[None]:
    """Run a block under random states seeded from ``name`` and ``seed``; restore Python's, NumPy's and torch's after.

    A part that is built under its own name is initialised alike whatever other parts exist.
    """
    number = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "little")
    state = capture_random_state()
    random.seed(number)
    np.random.seed(number)
    if torch.cuda.is_initialized():
        torch.manual_seed(number)
    else:  # CUDA would take this seed when it starts, in place of the run's own
        torch.default_generator.manual_seed(number)
    try:
        yield
    finally:
        restore_random_state(state)


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


def unwrapped(runner: Runner) -> Any:
    """Return the model of a runner, out of its parallel wrapper."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
