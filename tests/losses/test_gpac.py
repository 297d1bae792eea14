"""GPAC's attention: the choice of teachers and the distance of maps.

The golden numbers come from szagoruyko/attention-transfer, run in float64 on the same waves.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_mm.losses import GPACAttentionLoss, Loss, Progress
from kd_mm.losses.observation import Observation

from ..distillers.conftest import batch, build, recipe
from ..helpers.losses import gpac
from ..helpers.waves import wave
from .test_multi_teacher import TEAM

MAPS = {f"t{i}": wave(2, 3 + i, 4, 4, pace=pace) for i, pace in enumerate((1.7, 1.1, 2.3), 1)}
STUDENT_MAP = wave(2, 3, 4, 4, pace=0.9)
#: Distance to each of MAPS by the public code.
KNOWN = {"t1": 0.005990734897984234, "t2": 0.0023209650131641255, "t3": 0.0023593745416001137}


def attend(loss: Loss, student: Tensor = STUDENT_MAP, teachers: dict[str, Tensor] = MAPS) -> Tensor:
    team = {name: Observation(features={1: feature}) for name, feature in teachers.items()}
    return loss(Observation(features={1: student}), team)


def test_agrees_with_public_code_on_the_chosen_teacher() -> None:
    for best in KNOWN:
        loss = gpac({name: 0.9 if name == best else 0.1 for name in MAPS})
        assert float(attend(loss)) == pytest.approx(KNOWN[best], abs=1e-12)
        # The same teacher a second time changes nothing.
        twice = gpac({**{name: 0.9 if name == best else 0.1 for name in MAPS}, "again": 0.9})
        assert float(attend(twice, teachers={**MAPS, "again": MAPS[best]})) == pytest.approx(KNOWN[best], abs=1e-12)


def test_equals_are_ordered_by_their_own_accuracy_then_by_name_and_other_selections_share() -> None:
    rated = {"one": 0.6, "two": 0.6}
    assert gpac(rated, {"one": 0.8, "two": 0.9}).shares == {1: {"two": 1.0}}
    assert gpac(rated, {"one": 0.9, "two": 0.9}).shares == {1: {"one": 1.0}}
    rated = {"t1": 0.40, "t2": 0.50, "t3": 0.45}
    assert gpac(rated, selection="topk").shares == {1: {"t2": 0.5, "t3": 0.5}}
    assert gpac(rated, selection="topk", top=9).shares[1] == pytest.approx(dict.fromkeys(("t2", "t3", "t1"), 1 / 3))
    soft = gpac(rated, selection="soft").shares[1]
    assert soft["t2"] / soft["t1"] == pytest.approx(math.exp(0.1 / 0.05))
    assert sum(soft.values()) == pytest.approx(1.0)


def test_attention_follows_the_selection_and_is_zero_for_the_student_itself() -> None:
    rated = {"t1": 0.40, "t2": 0.50, "t3": 0.45}
    both = (KNOWN["t2"] + KNOWN["t3"]) / 2
    assert float(attend(gpac(rated, selection="topk"))) == pytest.approx(both, abs=1e-12)
    reordered = dict(reversed(MAPS.items()))
    loss = gpac(dict(reversed(rated.items())), selection="soft")
    expected = float(attend(gpac(rated, selection="soft")))
    assert float(attend(loss, teachers=reordered)) == pytest.approx(expected, abs=1e-12)
    assert float(attend(gpac(dict.fromkeys(MAPS, 0.5)), teachers=dict.fromkeys(MAPS, STUDENT_MAP))) == 0.0


def test_worked_attention() -> None:
    loss = GPACAttentionLoss()
    student, teacher = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[2.0, 1.0]]]])
    assert float(loss.compare(student, teacher)) == pytest.approx(9 / 17, abs=1e-6)
    assert float(loss.compare(10 * student, teacher)) == pytest.approx(9 / 17, abs=1e-6)
    l1 = GPACAttentionLoss(distance="l1").compare(student, teacher)
    assert float(l1) == pytest.approx(3 / math.sqrt(17), abs=1e-6)
    # Maps (1, 4) and (4, 1) in units of their mean 2.5; KL of a softmax over two positions with gaps of 1.2.
    p = 1 / (1 + math.exp(-1.2))
    expected = (2 * p - 1) * math.log(p / (1 - p))
    assert float(GPACAttentionLoss(distance="kl").compare(student, teacher)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("distance", ["l2", "l1", "kl"])
def test_attention_has_no_order_sign_or_scale_and_finite_gradients(distance: str) -> None:
    loss, other = GPACAttentionLoss(distance=distance), wave(2, 5, 2, 2, pace=1.3)
    expected = float(loss.compare(STUDENT_MAP, other))
    for changed in (STUDENT_MAP[:, [2, 0, 1]], -STUDENT_MAP, 7 * STUDENT_MAP):
        assert float(loss.compare(changed, other)) == pytest.approx(expected, abs=1e-12)
    for size in (1e-30, 0.0):
        student = (size * STUDENT_MAP).to(torch.bfloat16).requires_grad_()
        value = attend(gpac({"t1": 0.5}, distance=distance), student, {"t1": MAPS["t1"].to(torch.bfloat16)})
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(student.grad).all()


# -- in a Distiller ------------------------------------------------------------------------------------------------


def test_recipe() -> None:
    model = build(teacher=TEAM, recipe=recipe("gpac"))
    data = model.data_preprocessor(batch(), True)
    with pytest.raises(RuntimeError, match=r"register the hook kd_mm.PrepareTeachersHook"):
        model(**data, mode="loss")
    loss: Any = model.losses["attention"]
    big = {"stage1": 0.4, "stage2": 0.7, "stage3": 0.6, "final": 0.6}
    loss.load_preparation({"big": big, "small": {"stage1": 0.5, "stage2": 0.6, "stage3": 0.8, "final": 0.8}})
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
