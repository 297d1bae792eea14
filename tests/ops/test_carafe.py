"""CARAFE against loops in float64."""

import numpy as np
import pytest
import torch
from mmcv.ops import carafe, carafe_naive

from ..helpers import ops_reference as reference
from ..helpers.gradients import check_value_and_gradients


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
