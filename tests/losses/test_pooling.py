"""Pooling under deterministic algorithms, which has to be torch's own up to rounding."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from kd_mm.losses.functional import average_by_products, same_size
from kd_mm.losses.reviewkd import hierarchical_context
from tests.devices import DEVICES


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("size", [(4, 4), (2, 3), (1, 1), (5, 7), (8, 9)])
def test_products_are_torchs_pooling(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    feature = torch.randn(2, 3, 7, 9, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, *size, dtype=torch.float64)
    found, expected = average_by_products(feature, size), F.adaptive_avg_pool2d(feature, size)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    (ours,), (theirs,) = (torch.autograd.grad((weights * pooled).sum(), feature) for pooled in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.usefixtures("deterministic")
def test_losses_that_pool_have_a_gradient_in_a_deterministic_run(device: str) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 5, 5)
    gradients = []
    for place in ("cpu", device):
        student, teacher = (feature.detach().to(place) for feature in maps)
        student.requires_grad_()
        pooled, teacher = same_size(student, teacher)
        (F.mse_loss(pooled, teacher) + hierarchical_context(student, student.detach().flip(0))).backward()
        gradients.append(student.grad.cpu())
    torch.testing.assert_close(gradients[1], gradients[0])
