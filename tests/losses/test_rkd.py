"""RKD. Public values: RepDistiller and MMRazor; loops over pairs and triples."""

from typing import Any

import pytest
import torch

from kd_mm.losses import RKDAngleLoss, RKDDistanceLoss

STUDENT = torch.tensor([[1.0, 2.0], [3.0, 1.0], [0.0, 2.0]])
TEACHER = torch.tensor([[2.0, 1.0], [2.0, 3.0], [1.0, 1.0]])


def test_values_of_the_public_code() -> None:
    assert float(RKDDistanceLoss().compare(STUDENT, TEACHER)) == pytest.approx(0.006773, abs=5e-7)
    assert float(RKDAngleLoss().compare(STUDENT, TEACHER)) == pytest.approx(0.039281, abs=5e-7)
    normalized = RKDDistanceLoss(normalize=True).compare(STUDENT, TEACHER)
    assert float(normalized) == pytest.approx(0.134285, abs=5e-7)


@pytest.mark.parametrize("loss", [RKDDistanceLoss(), RKDAngleLoss(), RKDDistanceLoss(normalize=True)])
def test_invariances(loss: Any) -> None:
    """Rotating, moving and scaling all embeddings changes nothing; moving does where they are normalised."""
    rotation, _ = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0)))
    moved = 5 * TEACHER @ rotation.T + (0 if loss.normalize else 3)
    assert float(loss.compare(moved, TEACHER)) == pytest.approx(0, abs=1e-6)
    assert float(loss.compare(STUDENT, TEACHER)) > 0.005
