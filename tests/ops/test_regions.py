"""RoIAlign and RoIPool stand-ins against loops in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmcv.ops import RoIAlign, RoIPool, roi_align, roi_pool

from tests.ops import reference_regions as reference
from tests.ops.slopes import check_value_and_slopes

# Image index, then corners: inside, second image, beyond the map on both sides, thin, fully outside.
ROIS = np.array(
    [
        [0, 1.3, 2.1, 9.7, 11.2],
        [1, 0.2, 0.4, 13.1, 12.6],
        [1, -4.3, -3.1, 5.2, 17.9],
        [0, 3.3, 2.2, 3.9, 9.1],
        [0, 40.0, 40.0, 50.0, 52.0],
    ]
)


def features(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, 3, 7, 8))


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_roi_align(mode: str, aligned: bool, ratio: int, scale: float) -> None:
    rois = torch.from_numpy(ROIS)
    check_value_and_slopes(
        lambda x: roi_align(x, rois, (2, 3), scale, ratio, mode, aligned),
        lambda x: reference.roi_align(x, ROIS, (2, 3), scale, ratio, mode, aligned),
        [features()],
    )


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align_float32_and_half(mode: str) -> None:
    expected = reference.roi_align(features(), ROIS, (3, 2), 0.5, 0, mode, True)
    layer = RoIAlign((3, 2), 0.5, 0, mode)
    inputs = torch.from_numpy(features()), torch.from_numpy(ROIS)
    np.testing.assert_allclose(layer(*(t.float() for t in inputs)).numpy(), expected, rtol=1e-4, atol=1e-5)
    for dtype in (torch.float16, torch.bfloat16):
        # Regions are rounded to the dtype too, as the detectors do; only the arithmetic inside is wide.
        narrow = [t.to(dtype) for t in inputs]
        output = layer(*narrow)
        assert output.dtype == dtype
        rounded = [t.double().numpy() for t in narrow]
        wanted = reference.roi_align(*rounded, (3, 2), 0.5, 0, mode, True)
        np.testing.assert_allclose(output.double().numpy(), wanted, atol=4 * torch.finfo(dtype).eps)


def test_roi_align_half_gradient_has_the_dtype_of_the_map() -> None:
    half = torch.from_numpy(features()).bfloat16().requires_grad_()
    RoIAlign((2, 2), 0.5)(half, torch.from_numpy(ROIS).bfloat16()).sum().backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("mode", "aligned"),
    [("avg", True), ("avg", False), ("max", False), pytest.param("max", True, marks=pytest.mark.devices_differ)],
)
def test_roi_align_without_regions_and_with_degenerate_ones(mode: str, aligned: bool) -> None:
    x = torch.from_numpy(features()).requires_grad_()
    empty = roi_align(x, torch.zeros(0, 5, dtype=torch.float64), (2, 2), 1.0, 0, mode, aligned)
    assert empty.shape == (0, 3, 2, 2)
    empty.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() == 0
    # A point, and a region whose second corner comes first along one axis.
    rois = np.array([[0, 3.0, 3.0, 3.0, 3.0], [1, 5.0, 2.0, 3.0, 6.0]])
    if aligned:
        # Nothing lies in them: no sample to average, and the kernel's starting value for a maximum.
        expected = np.full((2, 3, 2, 2), 0.0 if mode == "avg" else -10000.0)
    else:
        expected = reference.roi_align(features(), rois, (2, 2), 1.0, 0, mode, aligned)
    out = roi_align(x, torch.from_numpy(rois), (2, 2), 1.0, 0, mode, aligned)
    np.testing.assert_allclose(out.detach().numpy(), expected)
    out.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad.abs().sum() == 0) == aligned


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("aligned", [True, False])
def test_regions_that_are_no_numbers_pool_to_zero(mode: str, aligned: bool) -> None:
    x = torch.from_numpy(features()).requires_grad_()
    rois = torch.from_numpy(ROIS[:2].repeat(2, axis=0))
    rois[1, 1] = rois[3, 4] = torch.nan
    pooled = roi_align(x, rois, (2, 3), 1.0, 2, mode, aligned)
    assert (pooled[[1, 3]] == 0).all()
    expected = reference.roi_align(features(), ROIS[:2], (2, 3), 1.0, 2, mode, aligned)
    np.testing.assert_allclose(pooled[[0, 2]].detach().numpy(), expected)
    pooled.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_roi_align_max_takes_the_first_of_equal_values() -> None:
    x = torch.ones(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    roi_align(x, torch.tensor([[0.0, 0, 0, 4, 4]], dtype=torch.float64), (1, 1), 1.0, 2, "max", True).sum().backward()
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[:2, :2] = 0.25
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0, 0], expected)


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("size", [(2, 3), (7, 7), (1, 1)])
def test_roi_pool(scale: float, size: tuple[int, int]) -> None:
    rois = torch.from_numpy(ROIS)
    check_value_and_slopes(
        lambda x: roi_pool(x, rois, size, scale),
        lambda x: reference.roi_pool(x, ROIS, size, scale),
        [features(3)],
    )


def test_roi_pool_corner_cases() -> None:
    x = torch.from_numpy(features())
    layer = RoIPool((2, 2), 1.0)
    assert layer(x, torch.zeros(0, 5, dtype=torch.float64)).shape == (0, 3, 2, 2)
    rois = np.array([[1, 3.0, 3.0, 3.0, 3.0], [0, 5.0, 2.0, 3.0, 6.0], [0, 2.0, 2.0, 4.5, 3.5]])
    expected = reference.roi_pool(features(), rois, (2, 2), 1.0)
    assert (expected[1] == 0).all()
    np.testing.assert_array_equal(layer(x, torch.from_numpy(rois)).numpy(), expected)
    half = layer(x.bfloat16(), torch.from_numpy(rois).bfloat16())
    assert half.dtype == torch.bfloat16
    np.testing.assert_allclose(half.double().numpy(), expected, rtol=1e-2)


def test_region_groups_larger_than_the_memory_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from kd_mm.ops import roi_utils

    monkeypatch.setattr(roi_utils, "_ELEMENTS_AT_ONCE", 1)
    rois = torch.from_numpy(ROIS)
    x = torch.from_numpy(features())
    np.testing.assert_allclose(
        roi_align(x, rois, (2, 3), 0.5, 2, "max", True).numpy(),
        reference.roi_align(features(), ROIS, (2, 3), 0.5, 2, "max", True),
    )
    np.testing.assert_allclose(
        roi_pool(x, rois, (2, 3), 0.5).numpy(), reference.roi_pool(features(), ROIS, (2, 3), 0.5)
    )
