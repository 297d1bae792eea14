"""Multi-granularity distillation: worked numbers of codes and stable answers, invariants, and a Distiller."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from kd_mm.apis.recipes import read_recipes
from kd_mm.losses import KDLoss, Loss, LossContext, MAGLoss, MASLoss
from kd_mm.losses.functional import kl_divergence
from kd_mm.losses.mag import BRANCHES, CodeReader, Codes
from kd_mm.losses.observation import Observation
from kd_mm.preparation.codes import branch_loss

from ..distillers.conftest import CLASSES, batch, build, recipe
from ..helpers.waves import wave

LN3 = math.log(3)
FEATURE, TARGET = wave(4, 6, pace=0.9), wave(4, 8, pace=1.7)
STUDENT, TEACHER = wave(4, 5, pace=0.7, size=2.0), wave(4, 5, pace=1.1, size=3.0)


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def codes(width: int, dims: tuple[int, int] = (3, 7), classes: int = 5, seed: int = 0) -> Codes:
    torch.manual_seed(seed)
    return Codes(width, dims, classes).double()


def code_loss(**options: Any) -> MAGLoss:
    loss = MAGLoss(code_dims=(3, 7), student_tap="own", teacher_tap="theirs", **options)
    torch.manual_seed(1)
    loss.setup(LossContext(num_classes=5, student_taps={"own": (4, 6)}, teacher_taps={"theirs": (4, 8)}))
    loss.double().load_preparation({"teacher": codes(8)})
    return loss


def value(loss: Loss, feature: Tensor = FEATURE, logits: Tensor = STUDENT, target: Tensor = TARGET) -> Tensor:
    return loss(Observation(logits=logits, taps={"own": feature}), Observation(logits=TEACHER, taps={"theirs": target}))


# -- worked numbers ------------------------------------------------------------------------------------------------


def test_worked_losses_of_the_branches() -> None:
    label = torch.tensor([0])
    assert float(branch_loss(row(0, 0), row(2 * LN3, 0), label, 2.0)) == pytest.approx(1.216395, abs=1e-6)
    assert float(branch_loss(row(0, 0), row(8 * LN3, 0), label, 8.0)) == pytest.approx(9.065117, abs=1e-6)


def test_worked_codes_and_total() -> None:
    low = float(kl_divergence(row(0, 0), row(2 * LN3, 0), 2.0))
    high = float(kl_divergence(row(0, 0, 0), row(8 * LN3, 0, 0), 8.0))
    assert low == pytest.approx(0.523248, abs=1e-6)
    assert high == pytest.approx(9.493872, abs=1e-6)
    target = MASLoss().stable(row(3, 0), [row(0, 0), row(0, 3)])
    torch.testing.assert_close(target, row(1, 1))
    student = row(4 * LN3, 0)
    answer = float(kl_divergence(student, target, 4.0))
    assert answer == pytest.approx(2.301457, abs=1e-6)
    error = float(F.cross_entropy(student, torch.tensor([0])))
    assert 0.2 * error + 0.8 * answer + low + high == pytest.approx(11.860739, abs=1e-6)


def test_losses_are_these_terms() -> None:
    loss = code_loss(code_weights=(1.0, 0.5))
    ours, theirs = loss.codes.encode(FEATURE), loss.teacher_codes().encode(TARGET)
    low, high = (kl_divergence(ours[name], theirs[name], T) for name, T in zip(BRANCHES, (2.0, 8.0), strict=True))
    assert float(value(loss)) == pytest.approx(float(low + 0.5 * high), abs=1e-12)
    stable = MASLoss(code_dims=(3, 7), teacher_tap="theirs")
    stable.load_preparation({"teacher": codes(8)})
    decoded = codes(8).decode(theirs)
    mean = (TEACHER + decoded["low"] + decoded["high"]) / 3
    assert float(value(stable)) == pytest.approx(float(kl_divergence(STUDENT, mean, 4.0)), abs=1e-12)


def with_waves(module: torch.nn.Module) -> None:
    for part in module.children():
        for i, parameter in enumerate(part.parameters()):
            parameter.data = wave(*parameter.shape, pace=0.3 + 0.1 * i)


def test_agrees_with_public_code() -> None:
    """Numbers of shaoeric/multi-granularity-distillation (student_stable.py, student.py, train_teacher_wrapper.py)."""
    loss, theirs, labels = code_loss(), codes(8), torch.tensor([0, 1, 2, 3])
    for part in (loss.codes.encoders, theirs.encoders, theirs.decoders):
        with_waves(part)
    mas = MASLoss(code_dims=(3, 7), teacher_tap="theirs")
    for one in (loss, mas):
        one.load_preparation({"teacher": theirs})
    own = 0.2 * float(F.cross_entropy(STUDENT, labels)) + float(value(loss))
    assert own + 0.8 * float(value(mas)) == pytest.approx(14.253040271853283, abs=1e-9)
    mag = KDLoss(temperature=4.0)
    assert own + 0.8 * float(value(mag)) == pytest.approx(11.103691901913567, abs=1e-9)
    decoded = theirs.decode(theirs.encode(TARGET))
    for name, temperature, expected in (("low", 2.0, 14.402293743934877), ("high", 8.0, 31.77688209328096)):
        found = branch_loss(decoded[name], TEACHER, labels, temperature)
        assert float(found) == pytest.approx(expected, abs=1e-9)


# -- invariants ----------------------------------------------------------------------------------------------------


def test_codes_are_compared_up_to_a_constant_and_in_any_order() -> None:
    e = wave(4, 7, pace=1.3)
    assert float(kl_divergence(e + wave(4, 1), e, 8.0)) == pytest.approx(0.0, abs=1e-12)
    other, order = wave(4, 7, pace=0.6), [3, 1, 0, 6, 5, 2, 4]
    expected = float(kl_divergence(other, e, 8.0))
    assert float(kl_divergence(other[:, order], e[:, order], 8.0)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("space", ["logit", "prob"])
def test_stable_answer_is_blind_to_order_and_keeps_equal_answers(space: str) -> None:
    loss = MASLoss(stable_space=space)
    a, b, c = (wave(4, 5, pace=pace) for pace in (0.4, 0.9, 1.3))
    torch.testing.assert_close(loss.stable(a, [b, c]), loss.stable(c, [a, b]))
    same = loss.stable(a, [a, a])
    assert float(kl_divergence(STUDENT, same, 4.0)) == pytest.approx(float(kl_divergence(STUDENT, a, 4.0)), abs=1e-12)


def test_average_of_probabilities_and_other_shares() -> None:
    answers = [wave(4, 5, pace=pace) for pace in (0.4, 0.9, 1.3)]
    shares = (0.5, 0.5, 0.0)
    found = MASLoss(stable_space="prob", stable_weights=shares).stable(answers[0], answers[1:])
    expected = sum(w * (z / 4).softmax(1) for w, z in zip(shares, answers, strict=True))
    torch.testing.assert_close((found / 4).softmax(1), expected)


# -- gradients and extremes ----------------------------------------------------------------------------------------


def test_gradcheck() -> None:
    loss = code_loss()
    assert gradcheck(lambda f: value(loss, f), FEATURE.clone().requires_grad_())
    answer = MASLoss(code_dims=(3, 7), teacher_tap="theirs")
    answer.load_preparation({"teacher": codes(8)})
    assert gradcheck(lambda z: value(answer, logits=z), STUDENT.clone().requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_extremes_in_half_precision(dtype: torch.dtype) -> None:
    feature = (1e4 * FEATURE).to(dtype).requires_grad_()
    logits = (1e4 * STUDENT).to(dtype).requires_grad_()
    loss, answer = code_loss().float(), MASLoss(code_dims=(3, 7), teacher_tap="theirs", stable_space="prob")
    for one in (loss, answer):
        one.load_preparation({"teacher": codes(8).float()})
    total = sum(value(one, feature, logits, (1e4 * TARGET).to(dtype)) for one in (loss, answer))
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(feature.grad).all()
    assert torch.isfinite(logits.grad).all()


# -- in a Distiller ------------------------------------------------------------------------------------------------


def ready(name: str = "mas", **changes: Any) -> Any:
    """A Distiller whose teacher's codes count as trained."""
    model = build(recipe=recipe(name, **changes))
    for loss in model.losses.values():
        if isinstance(loss, CodeReader):
            torch.manual_seed(3)
            loss.load_preparation({"teacher": Codes(loss.width, loss.code_dims, CLASSES).requires_grad_(False)})
    return model


def step(model: Any) -> dict[str, Tensor]:
    return model(**model.data_preprocessor(batch(), True), mode="loss")


@pytest.mark.parametrize("name", ["mag", "mas", "mag_features", "mas_features"])
def test_recipes(name: str) -> None:
    model = ready(name)
    out = step(model)
    weight, plain = (1.0, 1.0) if name.endswith("features") else (0.8, 0.2)
    answer = "stable" if name.startswith("mas") else "kd"
    torch.testing.assert_close(out[f"loss_{answer}"].detach(), weight * out[answer])
    torch.testing.assert_close(out["codes"], out["codes.low"] + out["codes.high"])
    assert model.recipe.student_loss_weight == plain
    out["loss_codes"].backward()
    assert all(p.grad is None for p in model.teachers["teacher"].model.parameters())
    assert all(p.grad is not None for p in model.distill.parameters())
    assert all(p.grad is None for p in model.student.head.parameters())
    assert any(p.grad is not None for p in model.student.backbone.parameters())
    assert not any("decoders" in key for key in model.state_dict())


@pytest.mark.parametrize("base", ["fitnets", "at", "sp", "vid", "rkd"])
def test_embedded_in_losses_on_features(base: str) -> None:
    joined, hooks = read_recipes(f"mas_features+{base}")
    assert "prepare_teachers" in hooks
    alone = build(recipe=recipe(base))
    model = build(recipe=joined)
    for loss in model.losses.values():
        if isinstance(loss, CodeReader):
            loss.load_preparation({"teacher": Codes(loss.width, loss.code_dims, CLASSES)})
    found, expected = step(model), step(alone)
    assert {"loss_codes", "loss_stable"} <= set(found)
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor)


def test_without_codes_mag_is_its_base() -> None:
    model = ready("mag", **{"losses.codes.loss_weight": 0})
    base = recipe("kd", **{"losses.kd.loss_weight": 0.8, "student_loss_weight": 0.2})
    found, expected = step(model), step(build(recipe=base))
    assert set(found) == set(expected)
    for key in found:
        torch.testing.assert_close(found[key], expected[key])


def test_student_decoders_stay_as_they_are() -> None:
    model = ready("mas", **{"losses.codes.build_student_decoders": True, "losses.codes.student_stable_weight": 0.2})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        out = step(model)
        assert "codes.stable" in out
        optimizer.zero_grad()
        model.parse_losses(out)[0].backward()
        optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert any("encoders" in key for key in changed)
    assert any("decoders" in key for key in before)
    assert not any("decoders" in key for key in changed)


def test_unprepared_and_wrong_options_are_told() -> None:
    with pytest.raises(RuntimeError, match=r"register the hook kd_mm.PrepareTeachersHook"):
        step(build(recipe=recipe("mas")))
    with pytest.raises(ValueError, match=r"code_dims=\[64\]"):
        MAGLoss(code_dims=(64,))
    with pytest.raises(ValueError, match="must be three shares of 1"):
        MASLoss(stable_weights=(1, 1, 1))
    with pytest.raises(ValueError, match="choose one of 'logit'"):
        MASLoss(stable_space="mean")
    with pytest.raises(ValueError, match=r"backbone.stem gives .*name another"):
        build(recipe=recipe("mas", **{"losses.stable.teacher_tap": "backbone.stem"}))
