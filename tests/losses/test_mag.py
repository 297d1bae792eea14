"""Multi-granularity distillation: worked numbers, public values, and a Distiller.

The public values come from shaoeric/multi-granularity-distillation (student_stable.py, student.py,
train_teacher_wrapper.py), run in float64 on the same waves.
"""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.apis.recipes import read_recipes
from kd_mm.losses import KDLoss, Loss, MASLoss, Observation
from kd_mm.losses.functional import kl_divergence
from kd_mm.losses.mag import BRANCHES, CodeReader, Codes
from kd_mm.preparation.codes import branch_loss

from ..distillers.conftest import CLASSES, build, losses_of, recipe
from ..helpers.losses import codes, mag, mas
from ..helpers.waves import fill_with_waves, wave

LN3 = math.log(3)
FEATURE, TARGET = wave(4, 6, pace=0.9), wave(4, 8, pace=1.7)
STUDENT, TEACHER = wave(4, 5, pace=0.7, size=2.0), wave(4, 5, pace=1.1, size=3.0)


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def value(loss: Loss) -> Tensor:
    student = Observation(logits=STUDENT, taps={"tap": FEATURE})
    return loss(student, Observation(logits=TEACHER, taps={"tap": TARGET}))


def test_worked_codes() -> None:
    assert float(kl_divergence(row(0, 0), row(2 * LN3, 0), 2.0)) == pytest.approx(0.523248, abs=1e-6)
    assert float(kl_divergence(row(0, 0, 0), row(8 * LN3, 0, 0), 8.0)) == pytest.approx(9.493872, abs=1e-6)
    label = torch.tensor([0])
    assert float(branch_loss(row(0, 0), row(2 * LN3, 0), label, 2.0)) == pytest.approx(1.216395, abs=1e-6)
    assert float(branch_loss(row(0, 0), row(8 * LN3, 0), label, 8.0)) == pytest.approx(9.065117, abs=1e-6)


def test_terms_are_divergences_of_the_codes() -> None:
    loss = mag(code_weights=(1.0, 0.5))
    student, teacher = loss.codes.encode(FEATURE), loss.teacher_codes().encode(TARGET)
    low, high = (kl_divergence(student[name], teacher[name], T) for name, T in zip(BRANCHES, (2.0, 8.0), strict=True))
    assert float(value(loss)) == pytest.approx(float(low + 0.5 * high), abs=1e-12)


def test_agrees_with_public_code() -> None:
    loss, teacher, labels = mag(), codes(), torch.tensor([0, 1, 2, 3])
    for part in (loss.codes.encoders, teacher.encoders, teacher.decoders):
        for branch in part.children():
            fill_with_waves(branch, 0.3)
    stable = mas()
    for reader in (loss, stable):
        reader.load_preparation({"teacher": teacher})
    base = 0.2 * float(F.cross_entropy(STUDENT, labels)) + float(value(loss))
    assert base + 0.8 * float(value(stable)) == pytest.approx(14.253040271853283, abs=1e-9)
    assert base + 0.8 * float(value(KDLoss(temperature=4.0))) == pytest.approx(11.103691901913567, abs=1e-9)
    decoded = teacher.decode(teacher.encode(TARGET))
    for name, temperature, expected in (("low", 2.0, 14.402293743934877), ("high", 8.0, 31.77688209328096)):
        assert float(branch_loss(decoded[name], TEACHER, labels, temperature)) == pytest.approx(expected, abs=1e-9)


# -- stable excitation ---------------------------------------------------------------------------------------------


def test_worked_total() -> None:
    target = MASLoss().stable(row(3, 0), [row(0, 0), row(0, 3)])
    torch.testing.assert_close(target, row(1, 1))
    student = row(4 * math.log(3), 0)
    divergence = float(kl_divergence(student, target, 4.0))
    assert divergence == pytest.approx(2.301457, abs=1e-6)
    error = float(F.cross_entropy(student, torch.tensor([0])))
    assert 0.2 * error + 0.8 * divergence + 0.523248 + 9.493872 == pytest.approx(11.860739, abs=2e-6)


def test_order_does_not_matter_and_equal_logits_remain() -> None:
    for space in ("logit", "prob"):
        loss = MASLoss(stable_space=space)
        a, b, c = (wave(4, 5, pace=pace) for pace in (0.4, 0.9, 1.3))
        torch.testing.assert_close(loss.stable(a, [b, c]), loss.stable(c, [a, b]))
        same = loss.stable(a, [a, a])
        assert float(kl_divergence(STUDENT, same, 4.0)) == pytest.approx(
            float(kl_divergence(STUDENT, a, 4.0)), abs=1e-12
        )


def test_average_of_probabilities_with_other_shares() -> None:
    logits = [wave(4, 5, pace=pace) for pace in (0.4, 0.9, 1.3)]
    shares = (0.5, 0.5, 0.0)
    mean = MASLoss(stable_space="prob", stable_weights=shares).stable(logits[0], logits[1:])
    expected = sum(w * (z / 4).softmax(1) for w, z in zip(shares, logits, strict=True))
    torch.testing.assert_close((mean / 4).softmax(1), expected)


def test_a_feature_that_is_no_embedding_and_missing_codes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"backbone.stem gives .*name another"):
        build(recipe=recipe("mas", **{"losses.stable.teacher_tap": "backbone.stem"}))
    with pytest.raises(RuntimeError, match=r"register the hook kd_mm.PrepareTeachersHook"):
        losses_of(build(recipe=recipe("mas")))


# -- in a Distiller ------------------------------------------------------------------------------------------------


def with_codes(config: dict[str, Any]) -> Any:
    """Return a Distiller whose teacher's codes count as trained."""
    model = build(recipe=config)
    for loss in model.losses.values():
        if isinstance(loss, CodeReader):
            torch.manual_seed(3)
            loss.load_preparation({"teacher": Codes(loss.teacher_width, loss.code_dims, CLASSES).requires_grad_(False)})
    return model


@pytest.mark.parametrize("base", ["fitnets", "rkd"])
def test_joined_with_losses_on_features(base: str) -> None:
    joined, hooks = read_recipes(f"mas_features+{base}")
    assert "prepare_teachers" in hooks
    alone = build(recipe=recipe(base))
    out, expected = losses_of(with_codes(joined)), losses_of(alone)
    assert {"loss_codes", "loss_stable"} <= set(out)
    for key, tensor in expected.items():
        torch.testing.assert_close(out[key], tensor)


def test_student_decoders_are_not_trained() -> None:
    changes = {"losses.codes.build_student_decoders": True, "losses.codes.student_stable_weight": 0.2}
    model = with_codes(recipe("mas", **changes))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        out = losses_of(model)
        assert "codes.stable" in out
        optimizer.zero_grad()
        model.parse_losses(out)[0].backward()
        optimizer.step()
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert any("encoders" in key for key in changed)
    assert any("decoders" in key for key in before)
    assert not any("decoders" in key for key in changed)
