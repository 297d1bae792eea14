"""CA-MKD's term on features: numbers of Rorozhl/CA-MKD (float64, same waves), gradients, extremes, and a Distiller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from kd_mm.losses import FitNetsLoss, MultiTeacherFeatureLoss, Progress
from kd_mm.losses.observation import Observation

from ..distillers.conftest import batch, build, classifier, recipe
from ..helpers.waves import wave
from .test_multi_teacher_kd import LABELS, TEAM

WIDTHS, PACES = (3, 4, 5), (1.7, 1.1, 2.3)
TEACHERS = [wave(4, width, 2, 2, pace=pace) for width, pace in zip(WIDTHS, PACES, strict=True)]
STUDENT = [wave(4, width, 2, 2, pace=pace + 0.4) for width, pace in zip(WIDTHS, PACES, strict=True)]


def tail(width: int) -> Callable[[Tensor], Tensor]:
    weight = wave(6, width, pace=0.3 + 0.1 * width, size=4.0)
    return lambda feature: feature.mean((2, 3)) @ weight.to(feature.dtype).T


def value(
    loss: MultiTeacherFeatureLoss, student: Sequence[Tensor] = STUDENT, teachers: Sequence[Tensor] = TEACHERS
) -> Tensor:
    loss.teacher_names = tuple(f"t{i}" for i in range(len(teachers)))
    ours = {name: {1: map_} for name, map_ in zip(loss.teacher_names, student, strict=True)}
    theirs = {
        name: Observation(features={1: map_}, classifier=tail(map_.shape[1]))
        for name, map_ in zip(loss.teacher_names, teachers, strict=True)
    }
    return loss(Observation(targets=LABELS, adapted_by_teacher=ours), theirs)


def test_agrees_with_public_code_but_for_its_second_division() -> None:
    for detach in (False, True):
        assert float(value(MultiTeacherFeatureLoss(detach=detach))) / 3 == pytest.approx(0.3207972295022599, abs=1e-12)


def test_average_is_the_mean_of_hints() -> None:
    hints = [FitNetsLoss().compare(ours, theirs) for ours, theirs in zip(STUDENT, TEACHERS, strict=True)]
    assert float(value(MultiTeacherFeatureLoss(weights="mean"))) == pytest.approx(
        float(torch.stack(hints).mean()), abs=1e-12
    )


@pytest.mark.parametrize("options", [{}, {"detach": True}, {"weights": "mean"}])
def test_gradients(options: dict) -> None:
    maps = [map_.clone().requires_grad_() for map_ in STUDENT]
    if not options.get("detach"):
        assert gradcheck(lambda *own: value(MultiTeacherFeatureLoss(**options), own), maps)
        return
    # Constant weights: each map is drawn to its teacher's by its share alone.
    shares = (1 - torch.stack([_error(tail(m.shape[1])(m)) for m in STUDENT]).softmax(dim=0)) / 2
    found = torch.autograd.grad(value(MultiTeacherFeatureLoss(**options), maps), maps)
    for share, slope, ours, theirs in zip(shares, found, STUDENT, TEACHERS, strict=True):
        expected = share.view(-1, 1, 1, 1) * 2 * (ours - theirs) / ours[0].numel() / len(ours)
        torch.testing.assert_close(slope, expected)


def _error(logits: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits, LABELS, reduction="none")


@pytest.mark.parametrize("size", [1e-6, 1e4, 1e12])
def test_extremes_in_bf16_stay_finite(size: float) -> None:
    ours = [(size * map_).bfloat16().requires_grad_() for map_ in STUDENT]
    found = value(MultiTeacherFeatureLoss(), ours, [(size * map_).bfloat16() for map_ in TEACHERS])
    found.backward()
    assert torch.isfinite(found)
    assert all(torch.isfinite(map_.grad).all() for map_ in ours)


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
    assert all(p.grad is not None for p in model.distill["connectors"].parameters())


def test_only_whole_last_stages_are_read_by_classifiers() -> None:
    stages = {name: ["backbone.layer1", "backbone.layer2"] for name in ("student", *TEAM)}
    with pytest.raises(ValueError, match=r"teacher 'big' .*shows: name .* in stages=dict\(big="):
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
