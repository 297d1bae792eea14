"""Attention, CARAFE, focal losses, masked convolution and synchronised norms against their definitions."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.ops import MaskedConv2d, SyncBatchNorm, carafe, carafe_naive, sigmoid_focal_loss, softmax_focal_loss
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

from ..helpers import ops_reference as reference
from ..helpers.gradients import check_value_and_gradients

SHAPES, STARTS = np.array([[4, 5], [2, 3]]), np.array([0, 20])


def attend(value: torch.Tensor, locations: torch.Tensor, weights: torch.Tensor, step: int = 64) -> torch.Tensor:
    shapes, starts = torch.from_numpy(SHAPES), torch.from_numpy(STARTS)
    return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, step)


def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    value, weights = rng.normal(size=(2, 26, 2, 3)), rng.uniform(size=(2, 3, 2, 2, 2))
    # Some points lie outside the level.
    return [value, rng.uniform(-0.2, 1.2, size=(2, 3, 2, 2, 2, 2)), weights]


def test_deformable_attention() -> None:
    check_value_and_gradients(attend, lambda v, loc, w: reference.ms_deform_attn(v, SHAPES, loc, w), arrays())


def test_point_one_pixel_outside_has_no_gradient() -> None:
    value, locations, weights = (torch.from_numpy(array) for array in arrays())
    # In pixels: -1 along x on the first level, inside along y.
    locations[:] = 0.5
    locations[..., 0, :, 0] = -0.5 / 5
    locations.requires_grad_()
    attend(value, locations, weights).sum().backward()
    assert locations.grad is not None
    assert (locations.grad[..., 0, :, :] == 0).all()
    assert (locations.grad[..., 1, :, :] != 0).any()


def test_half_precision() -> None:
    value, locations, weights = (torch.from_numpy(array).half() for array in arrays())
    value.requires_grad_()
    output = attend(value, locations, weights, 1)
    assert output.dtype == torch.float16
    inputs = [tensor.detach().double().numpy() for tensor in (value, locations, weights)]
    expected = reference.ms_deform_attn(inputs[0], SHAPES, *inputs[1:])
    np.testing.assert_allclose(output.detach().double().numpy(), expected, atol=5e-3)
    output.sum().backward()
    assert value.grad is not None
    assert value.grad.dtype == torch.float16


@pytest.mark.parametrize(("kernel", "groups", "scale"), [(3, 1, 2), (5, 2, 1), (3, 2, 2)])
def test_carafe(kernel: int, groups: int, scale: int) -> None:
    rng = np.random.default_rng(5)
    features, masks = rng.normal(size=(2, 4, 3, 4)), rng.normal(size=(2, groups * kernel**2, 3 * scale, 4 * scale))
    check_value_and_gradients(
        lambda x, m: carafe(x, m, kernel, groups, scale),
        lambda x, m: reference.carafe(x, m, kernel, groups, scale),
        [features, masks],
    )
    # mmcv's wrapper has no backward of the naive operator on the CPU; the other one runs the same code.
    naive = carafe_naive(torch.from_numpy(features), torch.from_numpy(masks), kernel, groups, scale)
    np.testing.assert_allclose(naive.numpy(), reference.carafe(features, masks, kernel, groups, scale))


def test_autocast_does_not_change_the_precision_of_an_operator() -> None:
    torch.manual_seed(0)
    features, masks = torch.randn(1, 4, 5, 5), torch.randn(1, 9, 10, 10)
    exact = carafe(features, masks, 3, 1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(carafe(features, masks, 3, 1, 2), exact)


CLASS_WEIGHT = np.array([0.5, 2.0, 1.5, 0.25])


@pytest.mark.parametrize("weight", [None, CLASS_WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize(("gamma", "alpha", "reduction"), [(2.0, 0.25, "none"), (0.0, 0.5, "mean"), (1.5, 0.8, "sum")])
def test_sigmoid_focal_loss(gamma: float, alpha: float, reduction: str, weight: np.ndarray | None) -> None:
    target = np.array([0, 3, 2, 4, 1, 0])  # class 4 of 4 is the background
    tensor_weight = None if weight is None else torch.from_numpy(weight)

    def expected(x: np.ndarray) -> np.ndarray:
        values = reference.sigmoid_focal_loss(x, target, gamma, alpha, weight)
        return np.asarray({"none": values, "mean": values.sum() / 6, "sum": values.sum()}[reduction])

    check_value_and_gradients(
        lambda x: sigmoid_focal_loss(x, torch.from_numpy(target), gamma, alpha, tensor_weight, reduction),
        expected,
        [np.random.default_rng(0).normal(scale=2, size=(6, 4))],
    )


def test_sigmoid_focal_loss_of_large_logits_is_bounded() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, "none")
    # The logarithm is clamped at the smallest normal float32.
    bound = -np.log(np.finfo(np.float32).tiny)
    np.testing.assert_allclose(loss.detach().numpy(), [[0.75 * bound, 0.25 * bound]], rtol=1e-6)
    loss.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    half = sigmoid_focal_loss(logits.detach().half(), torch.tensor([1]), 2.0, 0.25, None, "none")
    assert half.dtype == torch.float16
    np.testing.assert_allclose(half.float().numpy(), loss.detach().numpy(), rtol=1e-3)


@pytest.mark.parametrize("weight", [None, CLASS_WEIGHT], ids=["plain", "weighted"])
def test_softmax_focal_loss(weight: np.ndarray | None) -> None:
    target = np.array([0, 3, 2, 1, -1, 0])
    tensor_weight = None if weight is None else torch.from_numpy(weight)
    for gamma, alpha in ((2.0, 0.25), (0.0, 1.0)):
        check_value_and_gradients(
            lambda x, g=gamma, a=alpha: softmax_focal_loss(x, torch.from_numpy(target), g, a, tensor_weight, "sum"),
            lambda x, g=gamma, a=alpha: np.asarray(reference.softmax_focal_loss(x, target, g, a, weight).sum()),
            [np.random.default_rng(1).normal(scale=2, size=(6, 4))],
        )


def test_masked_conv() -> None:
    torch.manual_seed(0)
    layer = MaskedConv2d(3, 4, 3, padding=1)
    layer.bias.data.normal_()
    x, mask = torch.randn(1, 3, 5, 6), torch.rand(1, 5, 6).round()
    full = torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x, mask), full * mask, rtol=1e-4, atol=1e-5)
    assert (layer(x, torch.zeros(1, 5, 6)) == 0).all()


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
