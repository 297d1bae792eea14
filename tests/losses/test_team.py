"""Losses that read all teachers: average and CA-MKD, numbers and what the Distiller builds for them.

The golden numbers come from Rorozhl/CA-MKD, run in float64 on the same waves.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor
from torch.autograd import gradcheck

from kd_mm.losses import KDLoss, Loss, LossContext, TeamLogitLoss
from kd_mm.losses.multi_teacher_kd import confidence_weights
from kd_mm.losses.observation import Observation

from ..distillers.conftest import batch, build, classifier, recipe
from .test_logit_baselines import wave

STUDENT = wave(4, 6, pace=0.9, size=2.0)
TEACHERS = [wave(4, 6, pace=pace, size=3.0) for pace in (1.7, 1.1, 2.3)]
LABELS = torch.tensor([0, 5, 2, 3])
TEAM = {
    "big": {"config": classifier(14, width=16), "random_weights": True},
    "small": {"config": classifier(8), "random_weights": True},
}


def team(*logits: Tensor) -> Observation:
    return Observation(team={f"teacher{i}": Observation(logits=z) for i, z in enumerate(logits, 1)})


def value(loss: Loss, student: Tensor = STUDENT, teachers: list[Tensor] = TEACHERS) -> Tensor:
    return loss(Observation(logits=student, targets=LABELS), team(*teachers))


def test_average_is_the_mean_of_kd() -> None:
    one_by_one = [
        KDLoss(temperature=4.0)(Observation(logits=STUDENT), Observation(logits=teacher)) for teacher in TEACHERS
    ]
    assert float(value(TeamLogitLoss())) == pytest.approx(float(torch.stack(one_by_one).mean()), abs=1e-12)


def test_ca_mkd_agrees_with_public_code_but_for_its_second_division() -> None:
    assert float(value(TeamLogitLoss("ca_mkd"))) / 3 == pytest.approx(0.9970391236956572, abs=1e-9)


def test_weights_add_up_and_prefer_the_teacher_that_is_right() -> None:
    weights = confidence_weights(TEACHERS, LABELS)
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(4, dtype=torch.float64))
    errors = torch.stack([F.cross_entropy(z, LABELS, reduction="none") for z in TEACHERS])
    assert torch.equal(weights.argmax(dim=0), errors.argmin(dim=0))
    alike = confidence_weights([TEACHERS[0]] * 3, LABELS)
    torch.testing.assert_close(alike, torch.full((3, 4), 1 / 3, dtype=torch.float64))
    soft = F.one_hot(LABELS, 6).double()
    torch.testing.assert_close(confidence_weights(TEACHERS, soft), weights)
    with pytest.raises(ValueError, match="one label for each answer"):
        confidence_weights(TEACHERS, None)


@pytest.mark.parametrize("options", [{}, {"weights": "ca_mkd"}, {"weights": "ca_mkd", "standardize": True}])
def test_gradcheck(options: dict) -> None:
    assert gradcheck(lambda z: value(TeamLogitLoss(**options), z), wave(4, 6, pace=0.9).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weights", ["mean", "ca_mkd"])
def test_extreme_logits_in_half_precision(weights: str, dtype: torch.dtype) -> None:
    student, teachers = (1e4 * STUDENT / 2).to(dtype).requires_grad_(), [(1e4 * z / 3).to(dtype) for z in TEACHERS]
    found = value(TeamLogitLoss(weights), student, teachers)
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(student.grad).all()


# -- in a Distiller ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["multi_kd", "ca_mkd"])
def test_recipe_reads_every_teacher_once(name: str) -> None:
    model = build(teacher=TEAM, recipe=recipe(name))
    assert set(model.teachers) == {"big", "small"}
    out = model(**model.data_preprocessor(batch(), True), mode="loss")
    assert {"kd.big", "kd.small", "loss_kd"} <= set(out)
    torch.testing.assert_close(out["kd"], out["kd.big"] + out["kd.small"])
    out["loss_kd"].backward()
    assert all(p.grad is None for teacher in model.teachers.values() for p in teacher.model.parameters())


def test_transforms_serve_it() -> None:
    model = build(teacher=TEAM, recipe={**recipe("ca_mkd"), "transform": {"type": "kd_mm.LearningSimplifier"}})
    assert set(model.distill["transform"]) == {"big", "small"}
    out = model(**model.data_preprocessor(batch(), True), mode="loss")
    plain = build(teacher=TEAM, recipe=recipe("ca_mkd"))
    torch.testing.assert_close(out["kd"], plain(**plain.data_preprocessor(batch(), True), mode="loss")["kd"])
    out["loss_kd"].backward()
    assert all(p.grad is not None for p in model.distill["transform"].parameters())


@MODELS.register_module()
class TeamFeatureLoss(Loss):
    """Mean distance of the connected maps to every teacher's."""

    requires: ClassVar = frozenset({"student.adapted", "teacher.features"})
    all_teachers = True

    def setup(self, context: LossContext) -> None:
        assert set(context.pairs_by_teacher) == set(self.team)

    def terms(self, student: Observation, teacher: Any) -> dict[str, Tensor]:
        return {
            f"{name}{i}": (student.team[name].adapted[i].mean((2, 3)) - theirs.features[i].mean((2, 3))).square().mean()
            for name, theirs in teacher.team.items()
            for i in self.stage_numbers(max(theirs.features))
        }


def test_features_come_with_a_connector_for_each_teacher() -> None:
    losses = {"team": {"type": "TeamFeatureLoss"}, "scd": {"type": "kd_mm.StageChannelLoss", "teacher": "big"}}
    model = build(teacher=TEAM, recipe={"losses": losses})
    assert set(model.distill["connectors"]) == {"big", "small"}
    out = model(**model.data_preprocessor(batch(), True), mode="loss")
    assert {"team.big1", "team.big3", "team.small1", "team.small3"} <= set(out)
    for i in (1, 2, 3):
        torch.testing.assert_close(out[f"team.big{i}"], out[f"scd.stage{i}"])


def test_wrong_teachers_are_told() -> None:
    with pytest.raises(ValueError, match="weights='ca_mkd' compares teachers, and there is one"):
        build(recipe=recipe("ca_mkd"))
    assert set(build(recipe=recipe("multi_kd")).teachers) == {"teacher"}
    with pytest.raises(ValueError, match=r"loss 'kd' reads all teachers \(big, small\); leave teacher='big' out"):
        build(teacher=TEAM, recipe=recipe("ca_mkd", **{"losses.kd.teacher": "big"}))
    with pytest.raises(ValueError, match="the config has none"):
        build(teacher=None, recipe=recipe("multi_kd"))
