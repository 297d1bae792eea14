"""A private random state: what happens inside leaves no trace in the global ones."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


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
