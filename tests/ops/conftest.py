"""Repeat on a GPU what the operators do on the CPU."""

import sys
from collections.abc import Iterator

import pytest
import torch

import kd_mm

from ..helpers.mirrored_ops import mirrored


@pytest.fixture(autouse=True)
def _on_the_gpu_too(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compare each operator that a test calls with CPU tensors with the same call on copies on the GPU.

    Tests marked ``devices_differ`` are left out: upstream's own kernels differ between devices there.
    """
    differ = request.node.get_closest_marker("devices_differ") is not None
    if differ or not torch.cuda.is_available() or kd_mm.ops.report().compiled:
        yield
        return
    with mirrored(sys.modules["mmcv._ext"], kd_mm.ops.report().operators, "cuda"):
        yield
