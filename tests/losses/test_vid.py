"""VID. Public values: RepDistiller, float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses import VIDLoss

from ..helpers.losses import context, of_maps, vid
from .test_fitnets import LARGE, SMALL, WIDE


@pytest.mark.parametrize(("teacher", "expected"), [(WIDE, 0.44559720757184007), (LARGE, 0.20213178414879823)])
def test_agrees_with_public_code(teacher: Tensor, expected: float) -> None:
    assert float(vid()(*of_maps(SMALL, teacher))) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("variance", [1e-3, 5.0, 400.0])
def test_initial_variances(variance: float) -> None:
    loss = VIDLoss(initial_variance=variance)
    loss.setup(context((3, 5), (4, 7)))
    assert [tuple(scale.shape) for scale in loss.scales.values()] == [(5,), (7,)]
    start = F.softplus(loss.scales["stage2"].double()) + 1e-5
    torch.testing.assert_close(start, torch.full_like(start, variance), rtol=1e-4, atol=0)
