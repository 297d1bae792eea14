"""RoIPool against loops in float64."""

import numpy as np
import torch
from mmcv.ops import RoIPool, roi_pool

from ..helpers import roi_reference as reference
from ..helpers.gradients import check_value_and_gradients
from ..helpers.roi_reference import ROIS, random_features


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
