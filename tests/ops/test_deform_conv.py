"""Deformable convolutions, plain and modulated, against loops in float64."""

import numpy as np
import pytest
import torch
from mmcv.ops import DeformConv2d, DeformConv2dPack, ModulatedDeformConv2dPack, deform_conv2d, modulated_deform_conv2d
from torch import Tensor

from ..helpers import ops_reference as reference
from ..helpers.gradients import check_value_and_gradients

# Stride, padding, dilation, groups, deformable groups, kernel.
SETTINGS = [
    ((1, 1), (1, 1), (1, 1), 1, 1, (3, 3)),
    ((2, 1), (1, 2), (1, 2), 2, 1, (3, 2)),
    ((1, 2), (0, 1), (2, 1), 1, 2, (2, 3)),
    ((1, 1), (1, 1), (1, 1), 2, 4, (3, 3)),
]


def arrays(setting: tuple, seed: int = 0) -> dict[str, np.ndarray]:
    stride, padding, dilation, groups, deform_groups, kernel = setting
    rng = np.random.default_rng(seed)
    size = [(6 + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
    taps = deform_groups * kernel[0] * kernel[1]
    return {
        "features": rng.normal(size=(2, 4, 6, 6)),
        # Wide enough for some samples to leave the map.
        "offset": rng.normal(scale=1.7, size=(2, 2 * taps, *size)),
        "mask": rng.uniform(0.1, 1, size=(2, taps, *size)),
        "weight": rng.normal(size=(4, 4 // groups, *kernel)),
        "bias": rng.normal(size=4),
    }


def tensors(setting: tuple, seed: int = 0) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays(setting, seed).items()}


@pytest.mark.parametrize("setting", SETTINGS)
def test_deform_conv(setting: tuple) -> None:
    case, options = arrays(setting), setting[:5]
    check_value_and_gradients(
        lambda x, o, w: deform_conv2d(x, o, w, *options),
        lambda x, o, w: reference.deform_conv(x, o, None, w, None, *options),
        [case["features"], case["offset"], case["weight"]],
    )


@pytest.mark.parametrize("setting", SETTINGS)
def test_modulated_deform_conv(setting: tuple) -> None:
    case, options = arrays(setting, seed=1), setting[:5]
    names = ["features", "offset", "mask", "weight"] + ["bias"] * (setting is not SETTINGS[1])
    check_value_and_gradients(
        lambda x, o, m, w, b=None: modulated_deform_conv2d(x, o, m, w, b, *options),
        lambda x, o, m, w, b=None: reference.deform_conv(x, o, m, w, b, *options),
        [case[name] for name in names],
    )


@pytest.mark.parametrize("modulated", [False, True])
def test_zero_offsets_have_the_gradient_of_upstream(modulated: bool) -> None:
    # New layers have zero offsets: with padding 1 the border samples lie exactly one pixel outside.
    setting = SETTINGS[0]
    case = tensors(setting, seed=2)
    offset = torch.zeros(2, 18, 6, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(2, 9, 6, 6, dtype=torch.float64, requires_grad=True)
    if modulated:
        out = modulated_deform_conv2d(case["features"], offset, mask, case["weight"], None, *setting[:5])
    else:
        out = deform_conv2d(case["features"], offset, case["weight"], *setting[:5])
    torch.testing.assert_close(out, torch.nn.functional.conv2d(case["features"], case["weight"], padding=1))
    out.sum().backward()
    inputs = [t.detach().numpy() for t in (case["features"], offset, case["weight"])]
    expected = reference.deform_offset_gradient(*inputs, *setting[:3])
    assert offset.grad is not None
    np.testing.assert_allclose(offset.grad.numpy(), expected, atol=1e-10)
    assert (expected[:, :2, 0] == 0).all()


def test_offsets_larger_than_the_output_are_read_as_upstream() -> None:
    # In mmdet's DyHead the offsets come from a finer level; the kernel steps through their memory by the output's size.
    case, options = arrays(SETTINGS[0], seed=3), SETTINGS[0][:5]
    rng = np.random.default_rng(3)
    offset, mask = rng.normal(size=(2, 18, 9, 8)), rng.uniform(0.1, 1, size=(2, 9, 9, 8))

    def expected(x: np.ndarray, o: np.ndarray, m: np.ndarray, w: np.ndarray) -> np.ndarray:
        read = [t.reshape(2, -1)[:, : t.shape[1] * 36].reshape(2, -1, 6, 6) for t in (o, m)]
        return reference.deform_conv(x, *read, w, None, *options)

    inputs = [case["features"], offset, mask, case["weight"]]
    check_value_and_gradients(lambda x, o, m, w: modulated_deform_conv2d(x, o, m, w, None, *options), expected, inputs)
    inputs[1] = offset[..., :3]
    with pytest.raises(ValueError, match="smaller than the output of 6x6"):
        modulated_deform_conv2d(*map(torch.from_numpy, inputs), None, *options)


def test_im2col_step_and_inputs_smaller_than_the_kernel() -> None:
    case = tensors(SETTINGS[3])
    inputs = case["features"], case["offset"], case["weight"]
    one, two, many = (deform_conv2d(*inputs, *SETTINGS[3][:5], False, step) for step in (1, 2, 32))
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(one, many)
    layer = DeformConv2d(2, 3, 3, padding=1).double()
    x = torch.randn(1, 2, 2, 2, dtype=torch.float64)
    out = layer(x, torch.zeros(1, 18, 2, 2, dtype=torch.float64))
    torch.testing.assert_close(out, torch.nn.functional.conv2d(x, layer.weight, padding=1))


@pytest.mark.parametrize("layer_type", [DeformConv2dPack, ModulatedDeformConv2dPack])
def test_autocast(layer_type: type) -> None:
    torch.manual_seed(0)
    layer = layer_type(4, 4, 3, padding=1)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.1)
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = layer(x)
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), exact, rtol=0.1, atol=0.1)
    narrow.float().square().sum().backward()
    for tensor in (x, *layer.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.dtype == torch.float32
        assert torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("modulated", [False, True])
def test_nan_offsets_lie_outside(modulated: bool) -> None:
    case = tensors(SETTINGS[0])
    far = case["offset"].clone()
    chosen = torch.rand(far[:, ::2].shape, generator=torch.Generator().manual_seed(0)) < 0.2
    far[:, ::2][chosen] = -100.0
    outputs, grads = [], []
    for offset in (far, far.masked_fill(far == -100, torch.nan)):
        leaves = [case["features"].clone().requires_grad_(), offset.clone().requires_grad_()]
        if modulated:
            output = modulated_deform_conv2d(*leaves, case["mask"], case["weight"], case["bias"], 1, 1, 1, 1, 1)
        else:
            output = deform_conv2d(*leaves, case["weight"], 1, 1, 1, 1, 1)
        outputs.append(output.detach())
        grads.append(torch.autograd.grad(output.square().sum(), leaves))
    assert torch.equal(outputs[0], outputs[1])
    assert all(torch.equal(*pair) for pair in zip(*grads, strict=True))
    assert (grads[1][1][:, ::2][chosen] == 0).all()
