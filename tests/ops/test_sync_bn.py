"""Synchronised batch normalisation against its definition."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.ops import SyncBatchNorm


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_sync_batch_norm_of_one_process() -> None:
    rng = np.random.default_rng(6)
    array = rng.normal(2.0, 3.0, size=(4, 3, 2, 5)).astype(np.float32)
    layer = SyncBatchNorm(3, eps=1e-3, momentum=0.2)
    layer.weight.data.uniform_(0.5, 2)
    layer.bias.data.uniform_(-1, 1)
    x = torch.from_numpy(array).requires_grad_()
    cotangent = rng.normal(size=array.shape)
    output = layer(x)
    output.backward(torch.from_numpy(cotangent).float())

    def normalise(values: np.ndarray) -> np.ndarray:
        mean, var = values.mean((0, 2, 3), keepdims=True), values.var((0, 2, 3), keepdims=True)
        scale, shift = (p.detach().double().numpy()[:, None, None] for p in (layer.weight, layer.bias))
        return (values - mean) / np.sqrt(var + 1e-3) * scale + shift

    wide = array.astype(float)
    np.testing.assert_allclose(output.detach().numpy(), normalise(wide), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.2 * wide.mean((0, 2, 3)), rtol=1e-5)
    unbiased = wide.var((0, 2, 3), ddof=1)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.2 * unbiased + 0.8, rtol=1e-5)
    direction = rng.normal(size=array.shape)
    slope = ((normalise(wide + 1e-5 * direction) - normalise(wide - 1e-5 * direction)) * cotangent).sum() / 2e-5
    assert x.grad is not None
    np.testing.assert_allclose((x.grad.numpy() * direction).sum(), slope, rtol=1e-3)
    np.testing.assert_allclose(layer.bias.grad.numpy(), cotangent.sum((0, 2, 3)), rtol=1e-4, atol=1e-4)
