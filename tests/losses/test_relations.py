"""RKD and cosine distillation of embeddings: public values, loops, gradients, and the Distiller around them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample
from torch import Tensor

from kd_mm.distillers import Distiller
from kd_mm.losses import CosineLoss, LossContext, RKDAngleLoss, RKDDistanceLoss
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS

from ..distillers.conftest import batch, build, recipe

#: The fixture whose values the public code of RepDistiller and MMRazor gives.
STUDENT = torch.tensor([[1.0, 2.0], [3.0, 1.0], [0.0, 2.0]])
TEACHER = torch.tensor([[2.0, 1.0], [2.0, 3.0], [1.0, 1.0]])


def test_values_of_the_public_code() -> None:
    assert float(RKDDistanceLoss().compare(STUDENT, TEACHER)) == pytest.approx(0.006773, abs=5e-7)
    assert float(RKDAngleLoss().compare(STUDENT, TEACHER)) == pytest.approx(0.039281, abs=5e-7)
    normalised = RKDDistanceLoss(normalize=True).compare(STUDENT, TEACHER)
    assert float(normalised) == pytest.approx(0.134285, abs=5e-7)


def test_both_equal_loops_over_pairs_and_triples() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    theirs = torch.randn(5, 7, generator=generator, dtype=torch.float64)

    def distances(x: Tensor) -> Tensor:
        found = torch.stack([(a - b).norm() for a, b in itertools.product(x, x)])
        return found / found[found > 0].mean()

    def angle(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return (F.normalize(b - a, dim=0) * F.normalize(c - a, dim=0)).sum()

    def angles(x: Tensor) -> Tensor:
        return torch.stack([angle(a, b, c) for a, b, c in itertools.product(x, x, x)])

    torch.testing.assert_close(
        RKDDistanceLoss().compare(ours, theirs), F.smooth_l1_loss(distances(ours), distances(theirs))
    )
    torch.testing.assert_close(RKDAngleLoss().compare(ours, theirs), F.smooth_l1_loss(angles(ours), angles(theirs)))


@pytest.mark.parametrize("loss", [RKDDistanceLoss(), RKDAngleLoss(), RKDDistanceLoss(normalize=True)])
def test_what_relations_do_not_see(loss: Any) -> None:
    """Turning, moving and scaling all embeddings alike; for normalised ones only turning and scaling."""
    turn, _ = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0)))
    moved = 5 * TEACHER @ turn.T + (0 if loss.normalize else 3)
    assert float(loss.compare(moved, TEACHER)) == pytest.approx(0, abs=1e-6)
    assert float(loss.compare(STUDENT, TEACHER)) > 0.005


@pytest.mark.parametrize("loss", [RKDDistanceLoss(), RKDAngleLoss(), RKDAngleLoss(normalize=True)])
def test_gradients_by_finite_differences_and_of_equal_embeddings(loss: Any) -> None:
    points = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: loss.compare(x, TEACHER.double()[[0, 1, 2, 0, 1]]), points)
    equal = torch.ones(3, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(loss.compare(equal, TEACHER), equal)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("size", [1e-6, 1e4, 1e12])
@pytest.mark.parametrize("loss", [RKDDistanceLoss(), RKDAngleLoss(), CosineLoss()])
def test_extreme_embeddings_in_bf16_stay_finite(loss: Any, size: float) -> None:
    loss.student_tap = loss.teacher_tap = "head"
    ours = (size * STUDENT).bfloat16().requires_grad_()
    found = loss(Observation(taps={"head": ours}), Observation(taps={"head": (-size * TEACHER).bfloat16()}))
    found.backward()
    assert found.dtype == torch.float32
    assert torch.isfinite(found)
    assert torch.isfinite(ours.grad).all()


def test_the_recipe_for_classifiers_has_the_benchmarks_weights() -> None:
    model = build(recipe=recipe("rkd"))
    out = model(**model.data_preprocessor(batch(), True), mode="loss")
    torch.testing.assert_close(out["loss_rkd_distance"].detach(), 25 * out["rkd_distance"])
    torch.testing.assert_close(out["loss_rkd_angle"].detach(), 50 * out["rkd_angle"])
    (out["loss_rkd_distance"] + out["loss_rkd_angle"]).backward()
    assert all(p.grad is not None for p in model.student.backbone.parameters())
    assert model.student.head.fc.weight.grad is None


def test_cosine_by_hand() -> None:
    loss = CosineLoss()
    ours, theirs = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 1.0], [0.0, -1.0]])
    assert float(loss.compare(ours, theirs)) == pytest.approx(1 - (2**-0.5 - 1) / 2, rel=1e-6)
    loss.student_tap = loss.teacher_tap = "head"
    loss.setup(LossContext(student_taps={"head": (2, 2)}, teacher_taps={"head": (2, 2)}))
    assert not list(loss.parameters())
    loss.setup(LossContext(student_taps={"head": (2, 2)}, teacher_taps={"head": (2, 5)}))
    assert loss.map.weight.shape == (5, 2)
    assert loss.map.bias is None
    with pytest.raises(ValueError, match=r"compares embeddings \(B, D\), but head gives \(2, 2, 4, 4\)"):
        loss.setup(LossContext(student_taps={"head": (2, 2)}, teacher_taps={"head": (2, 2, 4, 4)}))
    with pytest.raises(ValueError, match="policy='never' is unknown"):
        CosineLoss(policy="never")


def model(kind: str, width: int, classes: int) -> dict[str, Any]:
    head = {"type": "kd_mm.BNNeckHead"} if kind == "kd_mm.ReIDModel" else {"type": "mmpretrain.LinearClsHead"}
    return {
        "type": kind,
        "backbone": {"type": "kd_mm.CIFARResNet", "depth": 8, "widths": (4, 4, 8, width)},
        "neck": {"type": "mmpretrain.GlobalAveragePooling"},
        "head": {**head, "in_channels": width, "num_classes": classes},
        "data_preprocessor": {"type": "mmpretrain.ClsDataPreprocessor"},
    }


LOSSES = {
    "distance": {"type": "kd_mm.RKDDistanceLoss", "loss_weight": 25.0},
    "angle": {"type": "kd_mm.RKDAngleLoss", "loss_weight": 50.0},
    "cosine": {"type": "kd_mm.CosineLoss"},
}


@pytest.mark.parametrize("kind", ["kd_mm.ReIDModel", "mmpretrain.ImageClassifier"])
def test_embeddings_of_other_widths_and_other_class_lists(kind: str) -> None:
    torch.manual_seed(0)
    teacher = {"config": {"model": model(kind, 12, 7)}, "random_weights": True}
    distiller = Distiller(model(kind, 6, 3), teacher, {"losses": LOSSES}, input_size=16)
    tap = "head.bnneck" if kind == "kd_mm.ReIDModel" else "head:in[-1]"
    assert distiller.losses["cosine"].student_tap == distiller.losses["cosine"].teacher_tap == tap
    assert [name for name, _ in distiller.named_parameters() if "distill" in name] == [
        "distill.losses.cosine.map.weight"
    ]
    samples = [DataSample().set_gt_label(label) for label in (0, 0, 1, 1)]
    inputs = torch.randn(4, 3, 16, 16)
    out = distiller(inputs, samples, mode="loss")
    total, _ = distiller.parse_losses(out)
    total.backward()
    assert all(p.grad is not None for p in distiller.parameters() if p.requires_grad)
    teacher_model = distiller.teachers["teacher"].model
    feats = teacher_model.extract_feat(inputs)
    theirs = teacher_model.head.pre_logits(feats)
    assert theirs.shape == (4, 12)
    with torch.no_grad():
        student = distiller.student.head.pre_logits(distiller.student.extract_feat(inputs))
    torch.testing.assert_close(out["distance"], RKDDistanceLoss().compare(student, theirs))
    torch.testing.assert_close(out["loss_angle"].detach(), 50 * RKDAngleLoss().compare(student, theirs))


def test_a_network_without_a_head_needs_a_tap() -> None:
    class Bare(torch.nn.Module):
        pass

    with pytest.raises(ValueError, match="Bare has no head whose embedding could be read; give student_tap="):
        RKDDistanceLoss().extra_taps(Bare(), Bare())
    assert MODELS.get("kd_mm.RKDAngleLoss") is RKDAngleLoss
