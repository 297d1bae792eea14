"""Multi-scale deformable attention against loops in float64."""

import numpy as np
import torch
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
