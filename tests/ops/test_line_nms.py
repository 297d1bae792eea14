"""Lane suppression against loops."""

import numpy as np
import pytest
import torch
from mmcv.ops import line_nms

from ..helpers import ops_reference as reference


def lanes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Straight lanes in three directions: `(count, 77)` and scores `(count,)`."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((count, 77))
    rows[:, 2] = rng.uniform(-0.05, 0.6, count)
    rows[:, 4] = rng.uniform(-2, 80, count)
    slope = rng.choice([-3.0, 1.0, 4.0], count)[:, None]
    rows[:, 5:] = 400 + slope * np.arange(72) + rng.normal(scale=20, size=(count, 1))
    return rows, rng.permutation(count) / count


@pytest.mark.parametrize("top_k", [1, 4, 100])
def test_line_nms(top_k: int) -> None:
    for seed in range(3):
        rows, scores = lanes(40, seed)
        keep, count, parent = line_nms(torch.from_numpy(rows), torch.from_numpy(scores), overlap=25.0, top_k=top_k)
        expected, parents = reference.line_nms(rows, scores, 25.0, top_k)
        assert keep[:count].tolist() == expected
        assert keep[count:].tolist() == [0] * (40 - len(expected))
        assert parent.tolist() == parents
        assert top_k < 100 or 4 < len(expected) < 40


def test_line_nms_of_no_lanes_and_of_another_shape() -> None:
    keep, count, parent = line_nms(torch.zeros(0, 77), torch.zeros(0), 50.0, 4)
    assert (keep.shape, int(count), parent.shape) == ((0,), 0, (0,))
    with pytest.raises(ValueError, match=r"rows of 77 numbers, got boxes of shape \(3, 78\)"):
        line_nms(torch.zeros(3, 78), torch.zeros(3), 50.0, 4)
