"""Losses on logits and maps of several teachers: worked numbers, invariants, and what the Distiller builds for them.

The CA-MKD values come from Rorozhl/CA-MKD, run in float64 on the same waves.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses import (
    FitNetsLoss,
    KDLoss,
    Loss,
    MultiTeacherFeatureLoss,
    MultiTeacherKDLoss,
    Progress,
)
from kd_mm.losses.functional import confidence_weights
from kd_mm.losses.multi_teacher import WEIGHTS
from kd_mm.losses.observation import Connected, Observation

from ..distillers.conftest import batch, build, classifier, recipe
from ..helpers.errors import assert_refused
from ..helpers.losses import classifier as last_layers
from ..helpers.waves import wave

STUDENT = wave(4, 6, pace=0.9, size=2.0)
TEACHERS = {f"t{i}": wave(4, 6, pace=pace, size=3.0) for i, pace in enumerate((1.7, 1.1, 2.3), 1)}
LABELS = torch.tensor([0, 5, 2, 3])
TEAM = {
    "big": {"config": classifier(14, width=16), "random_weights": True},
    "small": {"config": classifier(8), "random_weights": True},
}


def value(loss: Loss, student: Tensor = STUDENT, teachers: dict[str, Tensor] = TEACHERS) -> Tensor:
    team = {name: Observation(logits=logits) for name, logits in teachers.items()}
    return loss(Observation(logits=student, targets=LABELS), team)


def weights(divergences: list[float], rule: str = "softmax", **options: Any) -> Tensor:
    logits = [wave(1, 3, pace=pace) for pace in range(1, len(divergences) + 1)]
    loss = MultiTeacherKDLoss(rule, **options)
    return loss.instruction_weights(torch.tensor(divergences)[:, None], logits[0], torch.stack(logits))[:, 0]


def test_worked_weights() -> None:
    soft = weights([0.2, 0.8])
    assert float(soft[0]) == pytest.approx(0.645656, abs=1e-6)
    assert float((soft * torch.tensor([0.2, 0.8])).sum()) == pytest.approx(0.412606, abs=1e-6)
    assert float(weights([0.2, 0.8], "inverse")[0]) == pytest.approx(0.8, abs=1e-6)
    assert float(weights([0.2, 0.8], kappa=0.01)[0]) == pytest.approx(1.0, abs=1e-6)
    assert weights([0.2, 0.8], "mean").tolist() == [0.5, 0.5]


def test_weights_are_shares_and_do_not_depend_on_the_order_of_teachers() -> None:
    for rule in WEIGHTS:
        teachers, reordered = list(TEACHERS.values()), dict(reversed(TEACHERS.items()))
        for granularity in ("sample", "batch"):
            loss = MultiTeacherKDLoss(rule, granularity=granularity)
            if rule == "ca_mkd":
                shares = confidence_weights(teachers, LABELS, average=granularity == "batch")
            else:
                shares = loss.instruction_weights(wave(3, 4, pace=0.4).abs(), STUDENT, torch.stack(teachers))
            assert shares.shape == (3, 4)
            assert (shares >= 0).all()
            torch.testing.assert_close(shares.sum(dim=0), torch.ones(4, dtype=torch.float64), atol=1e-7, rtol=0)
            assert granularity == "sample" or torch.equal(shares, shares[:, :1].expand(3, 4))
            assert float(value(loss)) == pytest.approx(float(value(loss, teachers=reordered)), abs=1e-12)


def test_confidence_weights_prefer_the_teacher_that_is_right() -> None:
    teachers = list(TEACHERS.values())
    weights = confidence_weights(teachers, LABELS)
    errors = torch.stack([F.cross_entropy(z, LABELS, reduction="none") for z in teachers])
    assert torch.equal(weights.argmax(dim=0), errors.argmin(dim=0))
    torch.testing.assert_close(confidence_weights(teachers, F.one_hot(LABELS, 6).double()), weights)
    assert_refused("one label for each row of logits", confidence_weights, teachers, None)


def test_values_of_kd_and_of_public_code() -> None:
    alone = [KDLoss()(Observation(logits=STUDENT), Observation(logits=teacher)) for teacher in TEACHERS.values()]
    assert float(value(MultiTeacherKDLoss())) == pytest.approx(float(torch.stack(alone).mean()), abs=1e-12)
    assert float(value(MultiTeacherKDLoss("ca_mkd"))) / 3 == pytest.approx(0.9970391236956572, abs=1e-9)


def test_one_teacher_is_kd_and_equal_logits_cost_nothing() -> None:
    for rule in [rule for rule in WEIGHTS if rule != "ca_mkd"]:
        loss, expected = (
            MultiTeacherKDLoss(rule),
            KDLoss()(Observation(logits=STUDENT), Observation(logits=TEACHERS["t1"])),
        )
        assert float(value(loss, teachers={"t1": TEACHERS["t1"]})) == pytest.approx(float(expected), abs=1e-12)
        assert float(value(loss, teachers=dict.fromkeys(TEACHERS, STUDENT))) == pytest.approx(0.0, abs=1e-9)


def test_gradient_with_constant_weights() -> None:
    student = STUDENT.clone().requires_grad_()
    value(MultiTeacherKDLoss("softmax", temperature=2.0), student).backward()
    q, p = (STUDENT / 2).softmax(1), {name: (z / 2).softmax(1) for name, z in TEACHERS.items()}
    k = torch.stack([(one * (one / q).log()).sum(1) for one in p.values()])
    w = (-k).softmax(0)
    expected = 2.0 / 4 * sum(w[m][:, None] * (q - one) for m, one in enumerate(p.values()))
    torch.testing.assert_close(student.grad, expected, atol=1e-6, rtol=0)


# -- in a Distiller ------------------------------------------------------------------------------------------------


def test_wrong_teachers() -> None:
    assert_refused("weights='ca_mkd' compares teachers, and there is one", build, recipe=recipe("ca_mkd"))
    assert set(build(recipe=recipe("multi_kd")).teachers) == {"teacher"}
    with pytest.raises(ValueError, match=r"loss 'kd' reads all teachers \(big, small\); leave teacher='big' out"):
        build(teacher=TEAM, recipe=recipe("ca_mkd", **{"losses.kd.teacher": "big"}))
    assert_refused("the config has none", build, teacher=None, recipe=recipe("multi_kd"))


# -- maps ----------------------------------------------------------------------------------------------------------

WIDTHS, PACES = (3, 4, 5), (1.7, 1.1, 2.3)
MAPS = [wave(4, width, 2, 2, pace=pace) for width, pace in zip(WIDTHS, PACES, strict=True)]
CONNECTED = [wave(4, width, 2, 2, pace=pace + 0.4) for width, pace in zip(WIDTHS, PACES, strict=True)]


def feature_value(loss: MultiTeacherFeatureLoss, student: Sequence[Tensor] = CONNECTED) -> Tensor:
    connected = {f"t{i}": Connected({1: feature}) for i, feature in enumerate(student)}
    teachers = {
        f"t{i}": Observation(features={1: feature}, classifier=last_layers(feature.shape[1]))
        for i, feature in enumerate(MAPS)
    }
    return loss(Observation(targets=LABELS, connected=connected), teachers)


def test_values_of_hints_and_of_public_code() -> None:
    hints = [FitNetsLoss().compare(*pair) for pair in zip(CONNECTED, MAPS, strict=True)]
    expected = float(torch.stack(hints).mean())
    assert float(feature_value(MultiTeacherFeatureLoss(weights="mean"))) == pytest.approx(expected, abs=1e-12)
    for detach in (False, True):
        assert float(feature_value(MultiTeacherFeatureLoss(detach=detach))) / 3 == pytest.approx(
            0.3207972295022599, abs=1e-12
        )


def test_gradient_of_hints_with_constant_weights() -> None:
    maps = [feature.clone().requires_grad_() for feature in CONNECTED]
    errors = [F.cross_entropy(last_layers(m.shape[1])(m), LABELS, reduction="none") for m in CONNECTED]
    shares = (1 - torch.stack(errors).softmax(dim=0)) / 2
    gradients = torch.autograd.grad(feature_value(MultiTeacherFeatureLoss(detach=True), maps), maps)
    for share, gradient, student, teacher in zip(shares, gradients, CONNECTED, MAPS, strict=True):
        expected = share.view(-1, 1, 1, 1) * 2 * (student - teacher) / student[0].numel() / len(student)
        torch.testing.assert_close(gradient, expected)


def step(model: Any) -> dict[str, Tensor]:
    model.progress = Progress(epoch=1, max_epochs=3)
    return model(**model.data_preprocessor(batch(), True), mode="loss")


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


def test_teachers_of_other_widths_and_types() -> None:
    team = {**TEAM, "big": {"config": {**classifier(14, width=16)}, "random_weights": True, "dtype": "bfloat16"}}
    assert torch.isfinite(step(build(teacher=team, recipe=recipe("ca_mkd")))["loss_hint"])
