"""A loss of one's own, as the README has it: one class and one config line."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS

import kd_mm
from kd_mm.losses import CrossStageReviewLoss, KDLoss, StageChannelLoss, StageResponseLoss

from ..distillers.conftest import batch, build, recipe
from ..helpers.losses import of_maps, of_stages, scd
from ..helpers.waves import wave


@MODELS.register_module()
class StageTurnLoss(kd_mm.losses.Loss):
    """One minus the cosine of the pooled channels."""

    requires = frozenset({"student.pooled", "teacher.pooled"})

    def terms(self, student, teacher):
        return {
            f"stage{i}": 1 - F.cosine_similarity(student.pooled[i], teacher.pooled[i]).mean()
            for i in self.stage_numbers(max(student.pooled))
        }


def test_a_registered_loss_is_one_config_line() -> None:
    model = build(recipe=recipe("mtkd_ssr", **{"losses.cosine": {"type": "StageTurnLoss", "loss_weight": 2.0}}))
    out = model(**model.data_preprocessor(batch(), True), mode="loss")
    assert {"loss_cosine", "cosine", "cosine.stage1", "cosine.stage3"} <= set(out)
    torch.testing.assert_close(out["loss_cosine"].detach(), 2 * out["cosine"])
    alone = build(recipe={"losses": {"cosine": {"type": "StageTurnLoss"}}})
    assert {key.split(".")[0] for key in alone.objective.state_dict()} == {"connectors"}


def test_unknown_requirements_and_options_name_the_choices() -> None:
    with pytest.raises(ValueError, match=r"Wrong.requires: 'student.maps' is none of student.adapted"):
        type("Wrong", (kd_mm.losses.Loss,), {"requires": frozenset({"student.maps"})})
    with pytest.raises(ValueError, match="stage_reduction='none' is unknown; choose one of 'sum', 'mean'"):
        StageResponseLoss(stage_reduction="none")


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
