"""RKD. Public values: RepDistiller and MMRazor; loops over pairs and triples."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses import RKDAngleLoss, RKDDistanceLoss

from ..distillers.conftest import batch, build, recipe
from ..helpers.waves import wave

STUDENT = torch.tensor([[1.0, 2.0], [3.0, 1.0], [0.0, 2.0]])
TEACHER = torch.tensor([[2.0, 1.0], [2.0, 3.0], [1.0, 1.0]])


def test_values_of_the_public_code() -> None:
    assert float(RKDDistanceLoss().compare(STUDENT, TEACHER)) == pytest.approx(0.006773, abs=5e-7)
    assert float(RKDAngleLoss().compare(STUDENT, TEACHER)) == pytest.approx(0.039281, abs=5e-7)
    normalized = RKDDistanceLoss(normalize=True).compare(STUDENT, TEACHER)
    assert float(normalized) == pytest.approx(0.134285, abs=5e-7)


def test_both_equal_loops_over_pairs_and_triples() -> None:
    def distances(x: Tensor) -> Tensor:
        values = torch.stack([(a - b).norm() for a, b in itertools.product(x, x)])
        return values / values[values > 0].mean()

    def angle(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return (F.normalize(b - a, dim=0) * F.normalize(c - a, dim=0)).sum()

    def angles(x: Tensor) -> Tensor:
        return torch.stack([angle(a, b, c) for a, b, c in itertools.product(x, x, x)])

    pair = wave(5, 3, pace=0.9), wave(5, 7, pace=1.7)
    for loss, relate in ((RKDDistanceLoss(), distances), (RKDAngleLoss(), angles)):
        torch.testing.assert_close(loss.compare(*pair), F.smooth_l1_loss(*(relate(x) for x in pair)))


@pytest.mark.parametrize("loss", [RKDDistanceLoss(), RKDAngleLoss(), RKDDistanceLoss(normalize=True)])
def test_invariances(loss: Any) -> None:
    """Rotating, moving and scaling all embeddings changes nothing; moving does where they are normalised."""
    rotation, _ = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0)))
    moved = 5 * TEACHER @ rotation.T + (0 if loss.normalize else 3)
    assert float(loss.compare(moved, TEACHER)) == pytest.approx(0, abs=1e-6)
    assert float(loss.compare(STUDENT, TEACHER)) > 0.005


@pytest.mark.parametrize("loss", [RKDDistanceLoss(), RKDAngleLoss(), RKDAngleLoss(normalize=True)])
def test_equal_embeddings_have_a_finite_gradient(loss: Any) -> None:
    equal = torch.ones(3, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss.compare(equal, TEACHER), equal)
    assert torch.isfinite(gradient).all()


def test_recipe_has_the_benchmarks_weights() -> None:
    model = build(recipe=recipe("rkd"))
    out = model(**model.data_preprocessor(batch(), True), mode="loss")
    torch.testing.assert_close(out["loss_rkd_distance"].detach(), 25 * out["rkd_distance"])
    torch.testing.assert_close(out["loss_rkd_angle"].detach(), 50 * out["rkd_angle"])
    (out["loss_rkd_distance"] + out["loss_rkd_angle"]).backward()
    assert all(p.grad is not None for p in model.student.backbone.parameters())
    assert model.student.head.fc.weight.grad is None
