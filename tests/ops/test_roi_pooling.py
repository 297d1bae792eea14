"""RoIAlign, RoIPool and deformable RoI pooling against loops in float64."""

import numpy as np
import pytest
import torch
from mmcv.ops import (
    DeformRoIPoolPack,
    ModulatedDeformRoIPoolPack,
    RoIAlign,
    RoIPool,
    deform_roi_pool,
    roi_align,
    roi_pool,
)

from kd_mm.ops import roi_utils

from ..helpers import roi_reference as reference
from ..helpers.gradients import check_value_and_gradients
from ..helpers.roi_reference import ROIS, random_features

MODES = [("avg", True), ("avg", False), ("max", True), ("max", False)]


@pytest.mark.parametrize(("mode", "aligned"), MODES)
def test_roi_align(mode: str, aligned: bool) -> None:
    for ratio, scale in ((0, 1.0), (2, 0.5)):
        check_value_and_gradients(
            lambda x, s=scale, r=ratio: roi_align(x, torch.from_numpy(ROIS), (2, 3), s, r, mode, aligned),
            lambda x, s=scale, r=ratio: reference.roi_align(x, ROIS, (2, 3), s, r, mode, aligned),
            [random_features()],
        )


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_float32_and_half_precision(mode: str) -> None:
    expected = reference.roi_align(random_features(), ROIS, (3, 2), 0.5, 0, mode, True)
    layer = RoIAlign((3, 2), 0.5, 0, mode)
    inputs = torch.from_numpy(random_features()), torch.from_numpy(ROIS)
    np.testing.assert_allclose(layer(*(t.float() for t in inputs)).numpy(), expected, rtol=1e-4, atol=1e-5)
    for dtype in (torch.float16, torch.bfloat16):
        # Regions are rounded to the dtype too, as in the detectors; only the arithmetic is float32.
        x, rois = (t.to(dtype) for t in inputs)
        output = layer(x.requires_grad_(), rois)
        assert output.dtype == dtype
        rounded = reference.roi_align(x.detach().double().numpy(), rois.double().numpy(), (3, 2), 0.5, 0, mode, True)
        np.testing.assert_allclose(output.detach().double().numpy(), rounded, atol=4 * torch.finfo(dtype).eps)
        output.sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == dtype


@pytest.mark.parametrize(
    ("mode", "aligned"),
    [*MODES[:2], pytest.param("max", True, marks=pytest.mark.devices_differ), MODES[3]],
)
def test_no_regions_and_degenerate_ones(mode: str, aligned: bool) -> None:
    x = torch.from_numpy(random_features()).requires_grad_()
    empty = roi_align(x, torch.zeros(0, 5, dtype=torch.float64), (2, 2), 1.0, 0, mode, aligned)
    assert empty.shape == (0, 3, 2, 2)
    empty.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() == 0
    # A point, and a region whose corners are swapped along one axis.
    rois = np.array([[0, 3.0, 3.0, 3.0, 3.0], [1, 5.0, 2.0, 3.0, 6.0]])
    if aligned:
        # No samples lie in them: the average is 0, the maximum the kernel's initial value.
        expected = np.full((2, 3, 2, 2), 0.0 if mode == "avg" else -10000.0)
    else:
        expected = reference.roi_align(random_features(), rois, (2, 2), 1.0, 0, mode, aligned)
    out = roi_align(x, torch.from_numpy(rois), (2, 2), 1.0, 0, mode, aligned)
    np.testing.assert_allclose(out.detach().numpy(), expected)
    out.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad.abs().sum() == 0) == aligned


@pytest.mark.parametrize(("mode", "aligned"), MODES)
def test_nan_regions_pool_to_zero(mode: str, aligned: bool) -> None:
    x = torch.from_numpy(random_features()).requires_grad_()
    rois = torch.from_numpy(ROIS[:2].repeat(2, axis=0))
    rois[1, 1] = rois[3, 4] = torch.nan
    pooled = roi_align(x, rois, (2, 3), 1.0, 2, mode, aligned)
    assert (pooled[[1, 3]] == 0).all()
    expected = reference.roi_align(random_features(), ROIS[:2], (2, 3), 1.0, 2, mode, aligned)
    np.testing.assert_allclose(pooled[[0, 2]].detach().numpy(), expected)
    pooled.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_maximum_passes_its_gradient_to_the_first_of_equal_values() -> None:
    x = torch.ones(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    roi_align(x, torch.tensor([[0.0, 0, 0, 4, 4]], dtype=torch.float64), (1, 1), 1.0, 2, "max", True).sum().backward()
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[:2, :2] = 0.25
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0, 0], expected)


def test_roi_pool() -> None:
    for size, scale in (((2, 3), 0.5), ((7, 7), 0.25), ((1, 1), 1.0), ((7, 7), 1.0)):
        check_value_and_gradients(
            lambda x, n=size, s=scale: roi_pool(x, torch.from_numpy(ROIS), n, s),
            lambda x, n=size, s=scale: reference.roi_pool(x, ROIS, n, s),
            [random_features(3)],
        )


def test_no_regions_degenerate_ones_and_half_precision() -> None:
    x, layer = torch.from_numpy(random_features()), RoIPool((2, 2), 1.0)
    assert layer(x, torch.zeros(0, 5, dtype=torch.float64)).shape == (0, 3, 2, 2)
    rois = np.array([[1, 3.0, 3.0, 3.0, 3.0], [0, 5.0, 2.0, 3.0, 6.0], [0, 2.0, 2.0, 4.5, 3.5]])
    expected = reference.roi_pool(random_features(), rois, (2, 2), 1.0)
    assert (expected[1] == 0).all()
    np.testing.assert_array_equal(layer(x, torch.from_numpy(rois)).numpy(), expected)
    half = layer(x.bfloat16(), torch.from_numpy(rois).bfloat16())
    assert half.dtype == torch.bfloat16
    np.testing.assert_allclose(half.double().numpy(), expected, rtol=1e-2)


SIZE = (2, 3)
# Image index, then corners, inside of a map of 14 by 16 pixels.
INNER = np.array([[0, 3.3, 4.1, 9.7, 9.2], [1, 2.2, 2.4, 12.1, 10.6], [1, 5.2, 3.1, 8.3, 8.9]])
# Beyond the map on both sides, thin, without size, corners swapped, fully outside.
OUTER = np.array(
    [
        [1, -4.3, -3.1, 8.2, 17.9],
        [0, 7.3, 2.2, 17.9, 14.1],
        [0, 3.3, 2.2, 3.9, 9.1],
        [0, 4.0, 4.0, 4.0, 4.0],
        [1, 9.0, 8.0, 3.0, 6.0],
        [0, 60.0, 60.0, 70.0, 72.0],
    ]
)


def features() -> np.ndarray:
    return reference.random_features(size=(14, 16))


def offsets(count: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, size=(count, 2, *SIZE))


@pytest.mark.parametrize(("scale", "ratio"), [(0.5, 0), (1.0, 2)])
def test_inside_of_the_map(scale: float, ratio: int) -> None:
    rois = INNER / [1, scale, scale, scale, scale]
    check_value_and_gradients(
        lambda x, o: deform_roi_pool(x, torch.from_numpy(rois), o, SIZE, scale, ratio, 0.1),
        lambda x, o: reference.deform_roi_pool(x, rois, o, SIZE, scale, ratio, 0.1),
        [features(), offsets(len(INNER))],
    )


@pytest.mark.parametrize("ratio", [0, 2])
def test_without_offsets(ratio: int) -> None:
    rois = np.concatenate([INNER, OUTER])
    check_value_and_gradients(
        lambda x: deform_roi_pool(x, torch.from_numpy(rois), None, SIZE, 0.5, ratio, 0.1),
        lambda x: reference.deform_roi_pool(x, rois, None, SIZE, 0.5, ratio, 0.1),
        [features()],
    )


@pytest.mark.parametrize(("gamma", "ratio"), [(0.1, 2), (0.7, 0)])
def test_on_the_border_of_the_map(gamma: float, ratio: int) -> None:
    rois = np.concatenate([INNER, OUTER])
    moves = offsets(len(rois))
    check_value_and_gradients(
        lambda x: deform_roi_pool(x, torch.from_numpy(rois), torch.from_numpy(moves), SIZE, 1.0, ratio, gamma),
        lambda x: reference.deform_roi_pool(x, rois, moves, SIZE, 1.0, ratio, gamma),
        [features()],
    )
    leaf = torch.from_numpy(moves.copy()).requires_grad_()
    output = deform_roi_pool(torch.from_numpy(features()), torch.from_numpy(rois), leaf, SIZE, 1.0, ratio, gamma)
    cotangent = np.random.default_rng(2).normal(size=output.shape)
    output.backward(torch.from_numpy(cotangent))
    expected = reference.deform_roi_pool_offset_gradient(features(), rois, moves, cotangent, 1.0, ratio, gamma)
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=1e-9, atol=1e-9)
    assert (expected[:2] != 0).all()


def test_samples_up_to_one_pixel_outside_count() -> None:
    x = torch.full((1, 1, 4, 4), 2.0, dtype=torch.float64)
    # One bin of one point at its centre, at -1 and just before it.
    at = torch.tensor([[0, -1.5, 1.5, 0.5, 3.5], [0, -1.6, 1.5, 0.4, 3.5]], dtype=torch.float64)
    assert deform_roi_pool(x, at, None, (1, 1), 1.0, 1, 0.1).flatten().tolist() == [2.0, 0.0]


def test_no_regions_and_lower_precision() -> None:
    x, moves = torch.from_numpy(features()), torch.from_numpy(offsets(len(INNER)))
    empty = deform_roi_pool(x, torch.zeros(0, 5, dtype=torch.float64), moves[:0], SIZE)
    assert empty.shape == (0, 3, *SIZE)
    expected = reference.deform_roi_pool(features(), INNER, offsets(len(INNER)), SIZE, 1.0, 2, 0.1)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float16, 2e-2), (torch.bfloat16, 0.2)):
        inputs = [tensor.to(dtype).requires_grad_() for tensor in (x, moves)]
        output = deform_roi_pool(inputs[0], torch.from_numpy(INNER).to(dtype), inputs[1], SIZE, 1.0, 2, 0.1)
        assert output.dtype == dtype
        np.testing.assert_allclose(output.detach().double().numpy(), expected, rtol=tolerance, atol=tolerance)
        output.sum().backward()
        assert all(tensor.grad.dtype == dtype and tensor.grad.isfinite().all() for tensor in inputs)


@pytest.mark.parametrize("kind", [DeformRoIPoolPack, ModulatedDeformRoIPoolPack])
def test_layers_learn_their_offsets(kind: type[DeformRoIPoolPack]) -> None:
    torch.manual_seed(0)
    layer = kind(SIZE, 3, deform_fc_channels=4, spatial_scale=1.0, sampling_ratio=2).double()
    x = torch.from_numpy(features()).requires_grad_()
    output = layer(x, torch.from_numpy(INNER))
    factor = 0.5 if kind is ModulatedDeformRoIPoolPack else 1.0  # the initial mask is sigmoid(0)
    plain = reference.deform_roi_pool(features(), INNER, None, SIZE, 1.0, 2, 0.1)
    np.testing.assert_allclose(output.detach().numpy(), factor * plain, rtol=1e-9)
    (output**2).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in (layer.offset_fc[-1].weight, x))


def test_groups_of_regions_within_the_memory_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roi_utils, "_ELEMENTS_AT_ONCE", 1)
    check_value_and_gradients(
        lambda x, o: deform_roi_pool(x, torch.from_numpy(INNER), o, SIZE, 1.0, 0, 0.1),
        lambda x, o: reference.deform_roi_pool(x, INNER, o, SIZE, 1.0, 0, 0.1),
        [features(), offsets(len(INNER))],
    )
