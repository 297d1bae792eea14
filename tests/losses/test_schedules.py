"""Schedules of loss weights."""

import pytest

from kd_mm.losses import KDLoss, LinearRamp, Progress, StepDecay


@pytest.mark.parametrize(("epoch", "factor"), [(0, 0.05), (18, 0.95), (19, 1.0), (200, 1.0)])
def test_ramp_by_epochs(epoch: int, factor: float) -> None:
    assert LinearRamp(epochs=20)(Progress(epoch=epoch, max_epochs=240)) == pytest.approx(factor)


def test_ramp_by_iterations_and_by_fraction() -> None:
    assert LinearRamp(iterations=10)(Progress(iteration=4)) == pytest.approx(0.5)
    assert LinearRamp(fraction=0.1)(Progress(iteration=49, max_iterations=1000)) == pytest.approx(0.5)
    assert LinearRamp(fraction=0.1)(Progress(iteration=99, max_iterations=1000)) == 1.0
    assert LinearRamp(epochs=0)(Progress()) == 1.0


@pytest.mark.parametrize("lengths", [{}, {"epochs": 1, "iterations": 2}, {"epochs": -1}])
def test_ramp_takes_one_length(lengths: dict) -> None:
    with pytest.raises(ValueError, match="one length"):
        LinearRamp(**lengths)


def test_step_decay() -> None:
    decay = StepDecay(milestones=[2, 4], gamma=0.9)
    assert [decay(Progress(epoch=e)) for e in range(5)] == pytest.approx([1, 1, 0.9, 0.9, 0.81])


def test_schedule_is_a_factor_of_the_loss_weight() -> None:
    loss = KDLoss(loss_weight=0.3, schedule={"type": "LinearRamp", "epochs": 3})
    assert [loss.weight(Progress(epoch=e)) for e in range(3)] == pytest.approx([0.1, 0.2, 0.3])
