"""RoIAlign against loops in float64."""

import numpy as np
import pytest
import torch
from mmcv.ops import RoIAlign, roi_align

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
