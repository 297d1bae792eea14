"""Schedules of loss weights."""

import pytest

from kd_mm.losses import CosineDecay, KDLoss, LinearRamp, PiecewiseConstant, Progress


@pytest.mark.parametrize(("epoch", "factor"), [(0, 0.05), (18, 0.95), (19, 1.0), (200, 1.0)])
def test_ramp_by_epochs(epoch: int, factor: float) -> None:
    assert LinearRamp(epochs=20)(Progress(epoch=epoch, max_epochs=240)) == pytest.approx(factor)


def test_ramp_by_iterations_and_by_fraction() -> None:
    assert LinearRamp(iterations=10)(Progress(iteration=4)) == pytest.approx(0.5)
    assert LinearRamp(fraction=0.1)(Progress(iteration=49, max_iterations=1000)) == pytest.approx(0.5)
    assert LinearRamp(fraction=0.1)(Progress(iteration=99, max_iterations=1000)) == 1.0
    assert LinearRamp(epochs=0)(Progress()) == 1.0


def test_cosine_decay() -> None:
    decay = CosineDecay(start=0.5)
    found = [decay(Progress(iteration=i, max_iterations=8)) for i in (0, 4, 5, 6, 8)]
    assert found == pytest.approx([1, 1, (1 + 0.5**0.5) / 2, 0.5, 0])


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


def test_schedule_is_a_factor_of_the_loss_weight() -> None:
    loss = KDLoss(loss_weight=0.3, schedule={"type": "LinearRamp", "epochs": 3})
    assert [loss.weight(Progress(epoch=e)) for e in range(3)] == pytest.approx([0.1, 0.2, 0.3])
