"""The feature term of CA-MKD. Public values: Rorozhl/CA-MKD, float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses import FitNetsLoss, MultiTeacherFeatureLoss, Observation, Progress

from ..distillers.conftest import batch, build, classifier, recipe
from ..helpers.losses import classifier as last_layers
from ..helpers.waves import wave
from .test_multi_teacher_kd import LABELS, TEAM

WIDTHS, PACES = (3, 4, 5), (1.7, 1.1, 2.3)
TEACHERS = [wave(4, width, 2, 2, pace=pace) for width, pace in zip(WIDTHS, PACES, strict=True)]
STUDENT = [wave(4, width, 2, 2, pace=pace + 0.4) for width, pace in zip(WIDTHS, PACES, strict=True)]


def value(loss: MultiTeacherFeatureLoss, student: Sequence[Tensor] = STUDENT) -> Tensor:
    adapted = {f"t{i}": {1: feature} for i, feature in enumerate(student)}
    teachers = {
        f"t{i}": Observation(features={1: feature}, classifier=last_layers(feature.shape[1]))
        for i, feature in enumerate(TEACHERS)
    }
    return loss(Observation(targets=LABELS, adapted_by_teacher=adapted), teachers)


def test_agrees_with_public_code_except_for_its_second_division() -> None:
    for detach in (False, True):
        assert float(value(MultiTeacherFeatureLoss(detach=detach))) / 3 == pytest.approx(0.3207972295022599, abs=1e-12)


def test_mean_is_the_mean_of_hints() -> None:
    hints = [FitNetsLoss().compare(*pair) for pair in zip(STUDENT, TEACHERS, strict=True)]
    expected = float(torch.stack(hints).mean())
    assert float(value(MultiTeacherFeatureLoss(weights="mean"))) == pytest.approx(expected, abs=1e-12)


def test_gradient_with_constant_weights() -> None:
    maps = [feature.clone().requires_grad_() for feature in STUDENT]
    errors = [F.cross_entropy(last_layers(m.shape[1])(m), LABELS, reduction="none") for m in STUDENT]
    shares = (1 - torch.stack(errors).softmax(dim=0)) / 2
    gradients = torch.autograd.grad(value(MultiTeacherFeatureLoss(detach=True), maps), maps)
    for share, gradient, student, teacher in zip(shares, gradients, STUDENT, TEACHERS, strict=True):
        expected = share.view(-1, 1, 1, 1) * 2 * (student - teacher) / student[0].numel() / len(student)
        torch.testing.assert_close(gradient, expected)


# -- in a Distiller ------------------------------------------------------------------------------------------------


def step(model: Any) -> dict[str, Tensor]:
    model.progress = Progress(epoch=1, max_epochs=3)
    return model(**model.data_preprocessor(batch(), True), mode="loss")


def test_recipe_reads_the_teachers_classifiers() -> None:
    model = build(teacher=TEAM, recipe=recipe("ca_mkd"))
    assert "loss_hint" not in model(**model.data_preprocessor(batch(), True), mode="loss")  # the first epoch
    out = step(model)
    torch.testing.assert_close(out["loss_hint"].detach(), 50 * (out["hint.big"] + out["hint.small"]))
    out["loss_hint"].backward()
    assert all(p.grad is None for teacher in model.teachers.values() for p in teacher.model.parameters())
    assert all(p.grad is not None for p in model.objective.connectors.parameters())


def test_classifiers_read_the_last_stage_only() -> None:
    stages = {name: ["backbone.layer1", "backbone.layer2"] for name in ("student", *TEAM)}
    with pytest.raises(ValueError, match=r"teacher 'big' .*: name .* in stages=dict\(big="):
        build(teacher=TEAM, recipe=recipe("ca_mkd"), stages=stages)
    model = build(teacher=TEAM, recipe=recipe("ca_mkd", **{"losses.hint.weights": "mean"}), stages=stages)
    assert torch.isfinite(step(model)["loss_hint"])
    with pytest.raises(ValueError, match=r"stages=\[2\], but the teachers' classifiers read the last stage, 3"):
        build(teacher=TEAM, recipe=recipe("ca_mkd", **{"losses.hint.stages": [2]}))
    with pytest.raises(
        ValueError, match="MultiTeacherFeatureLoss: weights='ca_mkd' compares teachers, and there is one"
    ):
        build(recipe=recipe("ca_mkd", **{"losses.kd": None}))


def test_a_single_teacher_has_hints() -> None:
    changes = {"losses.kd": None, "losses.hint.weights": "mean", "losses.hint.schedule": None}
    found = step(build(recipe=recipe("ca_mkd", **changes)))
    hint = {"type": "kd_mm.FitNetsLoss", "loss_weight": 50.0, "stages": [3]}
    alone = step(build(recipe={"losses": {"hint": hint}, "connectors": recipe("ca_mkd")["connectors"]}))
    torch.testing.assert_close(found["hint"], alone["hint"])


def test_teachers_of_other_widths_and_types() -> None:
    team = {**TEAM, "big": {"config": {**classifier(14, width=16)}, "random_weights": True, "dtype": "bfloat16"}}
    assert torch.isfinite(step(build(teacher=team, recipe=recipe("ca_mkd")))["loss_hint"])
