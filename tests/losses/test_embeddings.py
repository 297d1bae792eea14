"""Losses on embeddings: cosine and RKD, by hand and in a Distiller.

Public values of RKD: RepDistiller and MMRazor.
"""

from typing import Any

import pytest
import torch
from mmpretrain.structures import DataSample

from kd_mm.distillers import Distiller
from kd_mm.losses import CosineLoss, LossContext, RKDAngleLoss, RKDDistanceLoss

from ..distillers.conftest import classifier
from ..distillers.test_reid import network
from ..helpers.losses import embedding

STUDENT = torch.tensor([[1.0, 2.0], [3.0, 1.0], [0.0, 2.0]])
TEACHER = torch.tensor([[2.0, 1.0], [2.0, 3.0], [1.0, 1.0]])


def test_values_by_hand_and_of_public_code() -> None:
    assert float(RKDDistanceLoss().compare(STUDENT, TEACHER)) == pytest.approx(0.006773, abs=5e-7)
    assert float(RKDAngleLoss().compare(STUDENT, TEACHER)) == pytest.approx(0.039281, abs=5e-7)
    normalized = RKDDistanceLoss(normalize=True).compare(STUDENT, TEACHER)
    assert float(normalized) == pytest.approx(0.134285, abs=5e-7)
    student, teacher = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 1.0], [0.0, -1.0]])
    assert float(CosineLoss().compare(student, teacher)) == pytest.approx(1 - (2**-0.5 - 1) / 2, rel=1e-6)


def test_invariances_of_rkd() -> None:
    """Rotating, moving and scaling all embeddings changes nothing; moving does where they are normalised."""
    for loss in (RKDDistanceLoss(), RKDAngleLoss(), RKDDistanceLoss(normalize=True)):
        rotation, _ = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0)))
        moved = 5 * TEACHER @ rotation.T + (0 if loss.normalize else 3)
        assert float(loss.compare(moved, TEACHER)) == pytest.approx(0, abs=1e-6)
        assert float(loss.compare(STUDENT, TEACHER)) > 0.005


def test_a_linear_map_where_the_widths_differ_and_what_is_no_embedding() -> None:
    loss = embedding(CosineLoss)
    loss.setup(LossContext(student_taps={"tap": (2, 2)}, teacher_taps={"tap": (2, 2)}))
    assert not list(loss.parameters())
    loss.setup(LossContext(student_taps={"tap": (2, 2)}, teacher_taps={"tap": (2, 5)}))
    assert loss.map.weight.shape == (5, 2)
    assert loss.map.bias is None
    with pytest.raises(ValueError, match=r"compares embeddings \(B, D\), but tap gives \(2, 2, 4, 4\)"):
        loss.setup(LossContext(student_taps={"tap": (2, 2)}, teacher_taps={"tap": (2, 2, 4, 4)}))
    with pytest.raises(ValueError, match="Linear has no head whose embedding could be read; give student_tap="):
        CosineLoss().extra_taps(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))


def model(kind: str, width: int, classes: int) -> dict[str, Any]:
    return network(classes, width) if kind == "kd_mm.ReIDModel" else classifier(8, classes, width)


LOSSES = {
    "distance": {"type": "kd_mm.RKDDistanceLoss", "loss_weight": 25.0},
    "angle": {"type": "kd_mm.RKDAngleLoss", "loss_weight": 50.0},
    "cosine": {"type": "kd_mm.CosineLoss"},
}


@pytest.mark.parametrize("kind", ["kd_mm.ReIDModel", "mmpretrain.ImageClassifier"])
def test_embeddings_of_other_widths_and_other_class_lists(kind: str) -> None:
    torch.manual_seed(0)
    teacher = {"config": {"model": model(kind, 3, 7)}, "random_weights": True}
    distiller = Distiller(model(kind, 2, 3), teacher, {"losses": LOSSES}, input_size=16)
    tap = "head.bnneck" if kind == "kd_mm.ReIDModel" else "head:in[-1]"
    assert distiller.losses["cosine"].student_tap == distiller.losses["cosine"].teacher_tap == tap
    names = [name for name, _ in distiller.named_parameters() if "distill" in name]
    assert names == ["distill.losses.cosine.map.weight"]
    samples = [DataSample().set_gt_label(label) for label in (0, 0, 1, 1)]
    inputs = torch.randn(4, 3, 16, 16)
    out = distiller(inputs, samples, mode="loss")
    assert distiller.class_counts == {"student": 3}
    distiller.parse_losses(out)[0].backward()
    assert all(p.grad is not None for p in distiller.parameters() if p.requires_grad)
    teacher_model = distiller.teachers["teacher"].model
    with torch.no_grad():
        embeddings = [
            network.head.pre_logits(network.extract_feat(inputs, stage="neck"))
            for network in (distiller.student, teacher_model)
        ]
    assert embeddings[1].shape == (4, 12)
    torch.testing.assert_close(out["distance"], RKDDistanceLoss().compare(*embeddings))
    torch.testing.assert_close(out["loss_angle"].detach(), 50 * RKDAngleLoss().compare(*embeddings))
