"""GPAC: instruction weights, levels; worked numbers, invariants and a Distiller. Attention: test_probed_attention."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from kd_mm.losses import (
    GPACAttentionLoss,
    InstructionLoss,
    KDLoss,
    Loss,
    PiecewiseConstant,
    Progress,
    TeamLogitLoss,
)
from kd_mm.losses.instruction import RULES
from kd_mm.losses.observation import Observation

from ..distillers.conftest import batch, build, classifier, recipe
from .test_logit_baselines import wave

STUDENT = wave(4, 6, pace=0.9, size=2.0)
TEACHERS = {f"t{i}": wave(4, 6, pace=pace, size=3.0) for i, pace in enumerate((1.7, 1.1, 2.3), 1)}
LABELS = torch.tensor([0, 5, 2, 3])
TEAM = {
    "big": {"config": classifier(14, width=16), "random_weights": True},
    "small": {"config": classifier(8), "random_weights": True},
}


def instruct(loss: Loss, student: Tensor = STUDENT, teachers: dict[str, Tensor] = TEACHERS) -> Tensor:
    team = {name: Observation(logits=logits) for name, logits in teachers.items()}
    return loss(Observation(logits=student, targets=LABELS), Observation(team=team))


# -- the instruction -----------------------------------------------------------------------------------------------


def weights(divergences: list[float], **options: Any) -> Tensor:
    logits = [wave(1, 3, pace=pace) for pace in range(1, len(divergences) + 1)]
    return InstructionLoss(**options).instruction_weights(torch.tensor(divergences)[:, None], logits[0], logits)[:, 0]


def test_worked_weights() -> None:
    soft = weights([0.2, 0.8])
    assert float(soft[0]) == pytest.approx(0.645656, abs=1e-6)
    assert float((soft * torch.tensor([0.2, 0.8])).sum()) == pytest.approx(0.412606, abs=1e-6)
    assert float(weights([0.2, 0.8], weight_rule="inverse")[0]) == pytest.approx(0.8, abs=1e-6)
    assert float(weights([0.2, 0.8], kappa=0.01)[0]) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("granularity", ["sample", "batch"])
def test_weights_are_shares_and_blind_to_the_order_of_teachers(rule: str, granularity: str) -> None:
    loss = InstructionLoss(weight_rule=rule, granularity=granularity)
    divergences = wave(3, 4, pace=0.4).abs()
    found = loss.instruction_weights(divergences, STUDENT, list(TEACHERS.values()), LABELS)
    assert found.shape == (3, 4)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(dim=0), torch.ones(4, dtype=torch.float64), atol=1e-7, rtol=0)
    assert (granularity == "sample") or torch.equal(found, found[:, :1].expand(3, 4))
    alike = loss.instruction_weights(torch.full((3, 4), 0.3), STUDENT, [TEACHERS["t1"]] * 3, LABELS)
    torch.testing.assert_close(alike.double(), torch.full((3, 4), 1 / 3, dtype=torch.float64), atol=1e-7, rtol=0)
    turned = dict(reversed(TEACHERS.items()))
    assert float(instruct(loss)) == pytest.approx(float(instruct(loss, teachers=turned)), abs=1e-12)


def test_instruction_by_plain_arithmetic() -> None:
    p = {name: (logits / 4).softmax(dim=1) for name, logits in TEACHERS.items()}
    q = (STUDENT / 4).softmax(dim=1)
    total = 0.0
    for b in range(4):
        k = [float((p[name][b] * (p[name][b] / q[b]).log()).sum()) for name in TEACHERS]
        closeness = [math.exp(-value) for value in k]
        total += 16 / 4 * sum(w * value for w, value in zip(closeness, k, strict=True)) / sum(closeness)
    assert float(instruct(InstructionLoss())) == pytest.approx(total, abs=1e-12)


def test_other_rules_are_known_losses() -> None:
    for ours, theirs in (("uniform", "mean"), ("ca_mkd", "ca_mkd")):
        expected = float(instruct(TeamLogitLoss(weights=theirs)))
        assert float(instruct(InstructionLoss(weight_rule=ours))) == pytest.approx(expected, abs=1e-12)
    # Rorozhl/CA-MKD, which divides by the number of teachers once more.
    assert expected / 3 == pytest.approx(0.9970391236956572, abs=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_one_teacher_is_kd(rule: str) -> None:
    expected = KDLoss()(Observation(logits=STUDENT), Observation(logits=TEACHERS["t1"]))
    alone = {"t1": TEACHERS["t1"]}
    found = instruct(InstructionLoss(weight_rule=rule), teachers=alone)
    assert float(found) == pytest.approx(float(expected), abs=1e-12)


def test_gradient_with_constant_weights() -> None:
    student = STUDENT.clone().requires_grad_()
    loss = InstructionLoss(temperature=2.0)
    instruct(loss, student).backward()
    q, p = (STUDENT / 2).softmax(1), {name: (z / 2).softmax(1) for name, z in TEACHERS.items()}
    k = torch.stack([(one * (one / q).log()).sum(1) for one in p.values()])
    w = (-k).softmax(0)
    expected = 2.0 / 4 * sum(w[m][:, None] * (q - one) for m, one in enumerate(p.values()))
    torch.testing.assert_close(student.grad, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rule", RULES)
def test_gradcheck_with_learned_weights(rule: str) -> None:
    loss = InstructionLoss(weight_rule=rule, detach=False)
    assert gradcheck(lambda z: instruct(loss, z), STUDENT.clone().requires_grad_())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_extreme_logits_in_half_precision(rule: str, dtype: torch.dtype) -> None:
    student = (5e3 * STUDENT).to(dtype).requires_grad_()
    teachers = {name: (3e3 * logits).to(dtype) for name, logits in TEACHERS.items()}
    found = instruct(InstructionLoss(weight_rule=rule, detach=False), student, teachers)
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(student.grad).all()


def test_teachers_that_are_the_student_cost_nothing() -> None:
    same = dict.fromkeys(TEACHERS, STUDENT)
    for rule in RULES:
        assert float(instruct(InstructionLoss(weight_rule=rule), teachers=same)) == pytest.approx(0.0, abs=1e-9)


# -- levels --------------------------------------------------------------------------------------------------------


def test_worked_levels() -> None:
    levels = PiecewiseConstant()
    found = [levels(Progress(epoch=epoch, max_epochs=240)) for epoch in (0, 79, 80, 159, 160, 239)]
    assert found == [1.0, 1.0, 0.5, 0.5, 0.1, 0.1]


def test_levels_of_iterations_and_of_given_epochs() -> None:
    by_iterations = [PiecewiseConstant()(Progress(iteration=i, max_iterations=9)) for i in range(9)]
    assert by_iterations == [1.0] * 3 + [0.5] * 3 + [0.1] * 3
    grow = PiecewiseConstant(levels=(0.1, 0.5, 1.0), bounds=(150, 180), unit="epochs")
    assert [grow(Progress(epoch=e, max_epochs=240)) for e in (0, 149, 150, 180, 239)] == [0.1, 0.1, 0.5, 1.0, 1.0]
    for thirds in range(1, 100):
        assert PiecewiseConstant()(Progress(epoch=thirds, max_epochs=3 * thirds)) == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": (1.0, 0.5)}, "one more than bounds"),
        ({"bounds": (0.6, 0.3)}, "increase"),
        ({"bounds": (150, 180)}, "set unit='epochs'"),
        ({"unit": "steps"}, "choose 'fraction' or 'epochs'"),
    ],
)
def test_wrong_levels(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PiecewiseConstant(**options)


# -- in a Distiller ------------------------------------------------------------------------------------------------


def test_recipe() -> None:
    model = build(teacher=TEAM, recipe=recipe("gpac"))
    data = model.data_preprocessor(batch(), True)
    with pytest.raises(RuntimeError, match=r"register the hook kd_mm.TeacherProbesHook"):
        model(**data, mode="loss")
    loss: Any = model.losses["attention"]
    loss.choose({"big": {1: 0.4, 2: 0.7, 3: 0.6}, "small": {1: 0.5, 2: 0.6, 3: 0.8}}, {})
    assert loss.shares == {1: {"small": 1.0}, 2: {"big": 1.0}, 3: {"small": 1.0}}
    model.progress = Progress(epoch=5, max_epochs=9)
    out = model(**data, mode="loss")
    torch.testing.assert_close(out["instruction"], out["instruction.big"] + out["instruction.small"])
    torch.testing.assert_close(out["loss_attention"].detach(), 500 * out["attention"])
    (out["loss_instruction"] + out["loss_attention"]).backward()
    assert all(p.grad is None for teacher in model.teachers.values() for p in teacher.model.parameters())
    assert any(p.grad is not None for p in model.student.backbone.layer1.parameters())
    assert "distill" not in "".join(model.state_dict())


def test_one_teacher_needs_no_probes() -> None:
    model = build(recipe=recipe("gpac"))
    out = model(**model.data_preprocessor(batch(), True), mode="loss")
    plain = build(
        recipe={
            "losses": {
                "kd": {"type": "kd_mm.KDLoss"},
                "attention": {"type": "kd_mm.ATLoss", "loss_weight": 1000.0},
            }
        }
    )
    known = plain(**plain.data_preprocessor(batch(), True), mode="loss")
    torch.testing.assert_close(out["loss_instruction"], known["loss_kd"])
    torch.testing.assert_close(out["loss_attention"], known["loss_attention"])


def test_stages_can_be_named() -> None:
    model = build(teacher=TEAM, recipe=recipe("gpac", **{"losses.attention.stages": [1, 2]}))
    model.losses["attention"].choose({"big": {1: 0.4, 2: 0.7}, "small": {1: 0.5, 2: 0.6}}, {})
    out = model(**model.data_preprocessor(batch(), True), mode="loss")
    assert {"attention.stage1", "attention.stage2"} <= set(out)
    assert "attention.stage3" not in out


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (InstructionLoss, {"weight_rule": "near"}, "weight_rule='near' is unknown; choose one of 'softmax'"),
        (InstructionLoss, {"kappa": 0}, "kappa=0 must be above 0"),
        (GPACAttentionLoss, {"selection": "best"}, "choose one of 'argmax'"),
        (GPACAttentionLoss, {"top": 0}, "top=0 must be 1 or more"),
    ],
)
def test_wrong_options(kind: type[Loss], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)
