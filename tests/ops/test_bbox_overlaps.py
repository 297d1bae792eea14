"""Overlaps of boxes against loops in float64."""

import numpy as np
import pytest
import torch
from mmcv.ops.bbox import bbox_overlaps

from ..helpers import ops_reference as reference


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("offset", [0, 1])
def test_bbox_overlaps(mode: str, offset: int) -> None:
    first, second = reference.random_boxes(6, 1)[0], reference.random_boxes(6, 2)[0]

    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        if mode == "iou":
            return reference.iou(a, b, offset)
        return reference.intersection(a, b, offset) / reference.area(a, offset)

    expected = np.array([[overlap(a, b) for b in second.astype(float)] for a in first.astype(float)])
    for aligned in (False, True):
        got = bbox_overlaps(torch.from_numpy(first), torch.from_numpy(second), mode, aligned, offset).numpy()
        np.testing.assert_allclose(got, np.diag(expected) if aligned else expected, rtol=1e-4, atol=1e-6)
