"""DKD, DIST, logit standardisation, SP: public code, independent arithmetic, extreme values.

The golden numbers come from mdistiller and the standardisation's fork of it (DKD, KD), hunto/DIST_KD (DIST) and
RepDistiller (SP), CuriousAI/mean-teacher (KL at temperature 1), run in float64 on the same waves.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from kd_mm.losses import (
    DISTLoss,
    DKDLoss,
    KDLoss,
    Loss,
    SPLoss,
    StageResponseLoss,
)
from kd_mm.losses.functional import standardized
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS

from ..distillers.conftest import batch, build, classifier, recipe
from ..helpers.waves import wave


def answers(student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> tuple[Observation, Observation]:
    return (
        Observation(stage_logits={1: student}, logits=student, targets=labels),
        Observation(stage_logits={1: teacher}, logits=teacher),
    )


def features(student: Tensor, teacher: Tensor) -> tuple[Observation, Observation]:
    return Observation(features={1: student}), Observation(features={1: teacher})


FIXTURE = answers(
    torch.tensor([[1.0, 0, -1], [0.5, 0.5, 0]], dtype=torch.float64),
    torch.tensor([[2.0, 1, 0], [0, 1, 2]], dtype=torch.float64),
    torch.tensor([0, 2]),
)
WAVES = answers(wave(4, 6, pace=0.9, size=2.0), wave(4, 6, pace=1.7, size=3.0) + 0.5, torch.tensor([0, 5, 2, 3]))


@pytest.mark.parametrize(
    ("loss", "seen", "expected"),
    [
        (DKDLoss(), FIXTURE, 0.723791),
        (DKDLoss(), WAVES, 22.225359926810768),
        (DKDLoss(temperature=1.0, beta=0.5), WAVES, 0.7511583416626845),
        (DKDLoss(temperature=2.0, alpha=2.0, beta=3.0, standardize=True), WAVES, 2.4143444741625775),
        (DISTLoss(temperature=4.0), FIXTURE, 20.530202),
        (DISTLoss(temperature=4.0), WAVES, 24.600337369080723),
        (DISTLoss(), WAVES, 1.1742488239375877),
        (DISTLoss(temperature=2.0, beta=2.0, gamma=0.5), WAVES, 7.480327084749),
        (KDLoss(temperature=1.0), WAVES, 1.4390219805804),
        (KDLoss(temperature=4.0), FIXTURE, 0.263687),
        (KDLoss(temperature=2.0, standardize=True), FIXTURE, 0.604914),
        (KDLoss(temperature=2.0, standardize=True), WAVES, 0.7309082436932184),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Loss) else "",
)
def test_agrees_with_public_code(loss: Loss, seen: tuple[Observation, Observation], expected: float) -> None:
    assert float(loss(*seen)) == pytest.approx(expected, abs=1e-6)


def test_sp_agrees_with_public_code() -> None:
    f_s = torch.tensor([[1.0, 2], [3, 1], [0, 2]], dtype=torch.float64)
    f_t = torch.tensor([[2.0, 1], [2, 3], [1, 1]], dtype=torch.float64)
    assert float(SPLoss()(*features(f_s, f_t))) == pytest.approx(0.050596, abs=1e-6)
    seen = features(wave(4, 3, 2, 2, pace=0.8), wave(4, 5, 3, 3, pace=1.9))
    assert float(SPLoss()(*seen)) == pytest.approx(0.11549795088340814, abs=1e-9)


# -- independent arithmetic and properties -------------------------------------------------------------------------


def test_dkd_with_beta_one_minus_p_is_hintons_kd() -> None:
    student, teacher = WAVES
    p = (teacher.logits / 4).softmax(1).gather(1, student.targets[:, None])[:, 0]
    rows = 0.0
    for i in range(4):
        one = answers(student.logits[i : i + 1], teacher.logits[i : i + 1], student.targets[i : i + 1])
        rows += float(DKDLoss(beta=float(1 - p[i]))(*one)) / 4
    assert rows == pytest.approx(float(KDLoss(temperature=4.0)(student, teacher)), abs=1e-10)


def test_dkd_takes_the_largest_class_of_a_soft_label_and_refuses_other_targets() -> None:
    student, teacher = WAVES
    soft = F.one_hot(student.targets, 6) * 0.6 + 0.4 / 6
    hard = DKDLoss()(student, teacher)
    assert torch.equal(DKDLoss()(*answers(student.logits, teacher.logits, soft)), hard)
    with pytest.raises(ValueError, match="one labelled class for each of the 4 rows of logits"):
        DKDLoss()(*answers(student.logits, teacher.logits, torch.tensor([1])))


def test_dist_is_pearsons_correlation_of_probabilities() -> None:
    student, teacher = WAVES
    p_s, p_t = (x.logits.softmax(1).numpy() for x in WAVES)
    rows = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p_s, p_t, strict=True)])
    columns = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p_s.T, p_t.T, strict=True)])
    assert float(DISTLoss(gamma=0.0)(student, teacher)) == pytest.approx(1 - rows, abs=1e-6)
    assert float(DISTLoss(beta=0.0)(student, teacher)) == pytest.approx(1 - columns, abs=1e-6)


@pytest.mark.parametrize("loss", [KDLoss, DKDLoss, DISTLoss, StageResponseLoss])
def test_standardised_logits_have_no_scale_and_no_level(loss: type[Loss]) -> None:
    student, teacher = WAVES
    value = float(loss(standardize=True)(student, teacher))
    changed = answers(7 * student.logits - 3, 0.2 * teacher.logits + 11, student.targets)
    assert float(loss(standardize=True)(*changed)) == pytest.approx(value, abs=1e-5)
    assert float(loss()(*changed)) != pytest.approx(float(loss()(student, teacher)), abs=1e-3)
    equal = answers(3 * teacher.logits, teacher.logits, student.targets)
    assert float(loss(standardize=True)(*equal)) == pytest.approx(0.0, abs=1e-6)


def test_standardised_has_mean_zero_and_deviation_one() -> None:
    rows = standardized(wave(3, 9, size=40.0))
    assert rows.mean(dim=1).abs().max() < 1e-12
    assert rows.std(dim=1).tolist() == pytest.approx([1.0] * 3, abs=1e-6)
    assert torch.equal(standardized(torch.full((2, 4), 3.0)), torch.zeros(2, 4))


@pytest.mark.parametrize("loss", [KDLoss, StageResponseLoss])
def test_sigmoids_are_not_standardised(loss: type[Loss]) -> None:
    with pytest.raises(ValueError, match=f"{loss.__name__}: standardize=True needs classes that exclude each other"):
        loss(standardize=True, multilabel=True)


def test_sp_knows_neither_scale_nor_channel_order_and_reads_the_last_stage() -> None:
    f_s, f_t = wave(4, 3, 2, 2, pace=0.8), wave(4, 5, 3, 3, pace=1.9)
    value = float(SPLoss()(*features(f_s, f_t)))
    assert float(SPLoss()(*features(9 * f_s, f_t.flip(1)))) == pytest.approx(value, abs=1e-10)
    assert float(SPLoss()(*features(f_s, f_s.flatten(1)))) == pytest.approx(0.0, abs=1e-20)
    assert SPLoss().stage_numbers(3) == (3,)
    assert SPLoss(stages=[1, 2]).stage_numbers(3) == (1, 2)


# -- gradients and extreme values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss",
    [
        DKDLoss(),
        DKDLoss(standardize=True),
        DISTLoss(temperature=2.0),
        DISTLoss(standardize=True),
        KDLoss(standardize=True),
        StageResponseLoss(standardize=True),
        SPLoss(),
    ],
    ids=lambda loss: f"{type(loss).__name__}{'-standardised' if getattr(loss, 'standardize', False) else ''}",
)
def test_gradcheck(loss: Loss) -> None:
    labels, teacher = torch.tensor([0, 3, 1]), wave(3, 4, pace=1.7)

    def function(z: Tensor) -> Tensor:
        return loss(
            Observation(features={1: z}, stage_logits={1: z}, logits=z, targets=labels),
            Observation(features={1: teacher}, stage_logits={1: teacher}, logits=teacher),
        )

    assert gradcheck(function, wave(3, 4, pace=0.9).requires_grad_())


@pytest.mark.parametrize("size", [0.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "loss",
    [
        KDLoss(),
        DKDLoss(),
        DISTLoss(),
        KDLoss(standardize=True),
        DKDLoss(standardize=True),
        StageResponseLoss(standardize=True),
        SPLoss(),
    ],
    ids=lambda x: f"{type(x).__name__}{'-standardised' if getattr(x, 'standardize', False) else ''}",
)
def test_extreme_and_equal_logits_in_half_precision(loss: Loss, dtype: torch.dtype, size: float) -> None:
    z, t = wave(5, 10, pace=0.9, size=size).to(dtype).requires_grad_(), wave(5, 10, pace=1.7, size=size).to(dtype)
    labels = torch.arange(5)

    def value(z: Tensor, t: Tensor) -> Tensor:
        student = Observation(features={1: z}, stage_logits={1: z}, logits=z, targets=labels)
        return loss(student, Observation(features={1: t}, stage_logits={1: t}, logits=t))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value(z, t)
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(z.grad).all()
    assert float(found) == pytest.approx(float(value(z.double(), t.double())), rel=1e-4, abs=1e-6)


# -- recipes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dkd", "dist", "sp", "kd_standardized"])
def test_recipe_trains_the_student_alone(name: str) -> None:
    model = build(recipe=recipe(name))
    assert not list(model.distill.parameters())
    (term,) = model.losses
    out = model(**model.data_preprocessor(batch(), True), mode="loss")
    out[f"loss_{term}"].backward()
    assert all(p.grad is not None for p in model.student.backbone.parameters())
    assert all(p.grad is None for p in model.teachers["teacher"].model.parameters())
    assert float(out[f"loss_{term}"]) == pytest.approx(
        float(out[term]) * model.losses[term].weight(model.progress), rel=1e-6
    )


def test_every_loss_is_registered() -> None:
    for name in ("DKDLoss", "DISTLoss", "SPLoss", "KDLoss"):
        assert MODELS.get(f"kd_mm.{name}") is not None


def test_sp_pairs_networks_of_any_widths() -> None:
    model = build(
        student=classifier(8, width=4), teacher={"config": classifier(8), "random_weights": True}, recipe=recipe("sp")
    )
    assert torch.isfinite(model(**model.data_preprocessor(batch(), True), mode="loss")["sp"])
