"""The base of all losses: requirements, options and schedules, means over the batch, which teacher is read."""

import pytest
import torch

import kd_mm
from kd_mm.losses import (
    CosineDecay,
    CrossStageReviewLoss,
    KDLoss,
    LinearRamp,
    PiecewiseConstant,
    Progress,
    StageChannelLoss,
    StageResponseLoss,
)
from kd_mm.losses.observation import Observation
from kd_mm.utils.suggest import StepError

from ..helpers.losses import of_maps, of_stages, scd
from ..helpers.waves import wave


def test_unknown_requirements_and_the_choice_of_teachers() -> None:
    with pytest.raises(ValueError, match=r"Wrong.requires: 'student.maps' is none of student.adapted"):
        type("Wrong", (kd_mm.losses.Loss,), {"requires": frozenset({"student.maps"})})
    with pytest.raises(ValueError, match=r"Wrong.requires: give a set, frozenset\(\{'student.pooled'\}\)"):
        type("Wrong", (kd_mm.losses.Loss,), {"requires": "student.pooled"})
    with pytest.raises(
        ValueError, match=r"loss 'kd' reads one teacher, the config has a, b: name one by model\.recipe\.los"
    ):
        KDLoss().choose_teachers("kd", ["a", "b"])
    with pytest.raises(ValueError, match="loss 'kd': teacher='c' is unknown; choose one of 'a', 'b'"):
        KDLoss(teacher="c").choose_teachers("kd", ["a", "b"])


def test_terms_that_are_no_numbers_by_name() -> None:
    for terms, message in (
        (torch.ones(()), "Wrong.terms returns Tensor, not a dict of numbers by name, as {'all': value}"),
        ({"all": torch.ones(3)}, r"Wrong.terms returns {'all': \(3,\)}: give tensors of one number by name"),
        ({"all": 1.0}, "Wrong.terms returns {'all': 'float'}: give tensors"),
        ({}, "Wrong.terms returns {}: give tensors of one number"),
    ):
        wrong = type("Wrong", (kd_mm.losses.Loss,), {"terms": lambda *_, terms=terms: terms})
        with pytest.raises(StepError, match=message):
            wrong()(Observation())


def test_terms_that_read_what_requires_does_not_name() -> None:
    """Such a field of an observation is None."""
    reads = frozenset({"student.logits"})
    for terms in (lambda _, s, t: {"all": t.logits.mean()}, lambda _, s, t: {"all": s.logits - t.logits}):
        wrong = type("Wrong", (kd_mm.losses.Loss,), {"requires": reads, "terms": terms})()
        with pytest.raises(StepError, match=r"Wrong.terms reads what requires does not name \(it names student.logits"):
            wrong.evaluate(Observation(logits=torch.ones(2, 3)), {})
    broken = type("Broken", (kd_mm.losses.Loss,), {"terms": lambda *_: {"all": torch.ones(()).no_such}})()
    with pytest.raises(AttributeError, match="no_such"):
        broken.evaluate(Observation(logits=torch.ones(2, 3)), {})


def test_losses_are_means_over_the_batch() -> None:
    z, t = ([wave(8, 6, pace=pace) for pace in paces] for paces in ((0.9, 1.3), (1.7, 2.1)))
    f, g = wave(8, 5, 3, 3, pace=0.7), wave(8, 5, 3, 3, pace=1.1)

    def value(loss: kd_mm.losses.Loss, part: slice) -> float:
        if isinstance(loss, StageChannelLoss):
            return float(loss(*of_maps(f[part], g[part])))
        return float(loss(of_stages(*(x[part] for x in z)), of_stages(*(x[part] for x in t))))

    for loss in (StageResponseLoss(), CrossStageReviewLoss(), scd(5), KDLoss()):
        halves = (value(loss, slice(0, 4)) + value(loss, slice(4, 8))) / 2
        assert value(loss, slice(None)) == pytest.approx(halves, abs=1e-9)


def test_ramps_and_cosine_decay_by_hand() -> None:
    by_epochs = [LinearRamp(epochs=20)(Progress(epoch=epoch, max_epochs=240)) for epoch in (0, 18, 19, 200)]
    assert by_epochs == pytest.approx([0.05, 0.95, 1, 1])
    assert LinearRamp(iterations=10)(Progress(iteration=4)) == pytest.approx(0.5)
    by_fraction = [LinearRamp(fraction=0.1)(Progress(iteration=i, max_iterations=1000)) for i in (49, 99)]
    assert by_fraction == [pytest.approx(0.5), 1.0]
    assert LinearRamp(epochs=0)(Progress()) == 1.0
    decay = [CosineDecay(start=0.5)(Progress(iteration=i, max_iterations=8)) for i in (0, 4, 5, 6, 8)]
    assert decay == pytest.approx([1, 1, (1 + 0.5**0.5) / 2, 0.5, 0])


def test_levels_by_hand_are_factors_of_the_loss_weight() -> None:
    by_epochs = [PiecewiseConstant()(Progress(epoch=e, max_epochs=240)) for e in (0, 79, 80, 159, 160, 239)]
    assert by_epochs == [1.0, 1.0, 0.5, 0.5, 0.1, 0.1]
    by_iterations = [PiecewiseConstant()(Progress(iteration=i, max_iterations=9)) for i in range(9)]
    assert by_iterations == [1.0] * 3 + [0.5] * 3 + [0.1] * 3
    grow = PiecewiseConstant(levels=(0.1, 0.5, 1.0), bounds=(150, 180), unit="epochs")
    assert [grow(Progress(epoch=e, max_epochs=240)) for e in (0, 149, 150, 180, 239)] == [0.1, 0.1, 0.5, 1.0, 1.0]
    for thirds in range(1, 100):
        assert PiecewiseConstant()(Progress(epoch=thirds, max_epochs=3 * thirds)) == 0.5
    loss = KDLoss(loss_weight=0.3, schedule={"type": "LinearRamp", "epochs": 3})
    assert [loss.weight(Progress(epoch=e)) for e in range(3)] == pytest.approx([0.1, 0.2, 0.3])
