"""The base of all losses: requirements and options, means over the batch, which teacher is read."""

import pytest

import kd_mm
from kd_mm.losses import CrossStageReviewLoss, KDLoss, StageChannelLoss, StageResponseLoss

from ..helpers.losses import of_maps, of_stages, scd
from ..helpers.waves import wave


def test_unknown_requirements_name_the_choices() -> None:
    with pytest.raises(ValueError, match=r"Wrong.requires: 'student.maps' is none of student.adapted"):
        type("Wrong", (kd_mm.losses.Loss,), {"requires": frozenset({"student.maps"})})


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


def test_a_loss_of_one_teacher_asks_which_one_of_several() -> None:
    with pytest.raises(
        ValueError, match=r"loss 'kd' reads one teacher, the config has a, b: name one by model\.recipe\.los"
    ):
        KDLoss().choose_teachers("kd", ["a", "b"])
    with pytest.raises(ValueError, match="loss 'kd': teacher='c' is unknown; choose one of 'a', 'b'"):
        KDLoss(teacher="c").choose_teachers("kd", ["a", "b"])
