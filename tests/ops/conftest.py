"""Repeats on a GPU what operators do on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch

import kd_mm
from tests.ops.mirror import mirrored


@pytest.fixture(autouse=True)
def _on_the_gpu_too(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each operator that a test calls with tensors on the CPU must do the same with copies of them on the GPU.

    But where upstream's own kernels differ between devices, which the test says by a mark.
    """
    differ = request.node.get_closest_marker("devices_differ") is not None
    if differ or not torch.cuda.is_available() or kd_mm.ops.report().compiled:
        yield
        return
    with mirrored(sys.modules["mmcv._ext"], kd_mm.ops.report().operators, "cuda"):
        yield
