"""Regions are pooled as torchvision's RoIAlign pools them, gradient included."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import roi_align

from kd_mm.stages.region_pooling import pool_regions

REGIONS = [
    [0, 3.0, 2.0, 40.0, 30.0],
    [1, -30.0, -20.0, 25.0, 18.0],  # reaches out of the map
    [1, 50.0, 30.0, 90.0, 70.0],
    [2, 10.0, 10.0, 10.0, 10.0],  # no area
    [0, 200.0, 200.0, 300.0, 300.0],  # nothing of it on the map
    [0, 3.5, 2.5, 41.0, 31.0],
]


def both(feature: torch.Tensor, regions: torch.Tensor, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    results = []
    for pool in (
        lambda: pool_regions(feature, regions, size, 8.0),
        lambda: roi_align(feature, regions, size, 1 / 8.0, 2, True),
    ):
        pooled = pool()
        wanted = torch.linspace(-1, 1, pooled.numel(), dtype=pooled.dtype).view(pooled.shape)
        results.append((pooled, torch.autograd.grad((pooled * wanted).sum(), feature)[0]))
    return results


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_it_is_roi_align(memory_format: torch.memory_format, size: int) -> None:
    torch.manual_seed(0)
    feature = torch.randn(3, 5, 6, 9, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    (mine, slope), (theirs, their_slope) = both(feature, torch.tensor(REGIONS, dtype=torch.float64), size)
    assert mine.shape == (len(REGIONS), 5, size, size)
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(slope, their_slope)
    assert slope.abs().sum() > 1


def test_no_region_gives_no_row_and_no_gradient() -> None:
    feature = torch.randn(2, 4, 5, 5, requires_grad=True)
    pooled = pool_regions(feature, torch.empty(0, 5), 7, 8.0)
    assert pooled.shape == (0, 4, 7, 7)
    pooled.sum().backward()
    assert not feature.grad.any()


def test_half_precision_pools_too() -> None:
    feature = torch.randn(3, 4, 6, 9)
    regions = torch.tensor(REGIONS)
    exact = pool_regions(feature, regions, 3, 8.0)
    torch.testing.assert_close(pool_regions(feature.half(), regions, 3, 8.0).float(), exact, rtol=0.05, atol=0.1)


def test_regions_that_are_not_numbers_pool_to_nothing() -> None:
    """A detector that diverges samples such regions."""
    pooled = pool_regions(torch.ones(1, 2, 4, 4), torch.tensor([[0.0, float("nan"), 1, 8, 9]]), 2, 8.0)
    assert not pooled.any()
