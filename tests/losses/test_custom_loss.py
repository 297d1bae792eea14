"""A loss of one's own, as the README shows it: one class and one config line."""

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS

import kd_mm

from ..distillers.conftest import batch, build, recipe


@MODELS.register_module()
class StageCosineLoss(kd_mm.losses.Loss):
    """One minus the cosine of the pooled channels."""

    requires = frozenset({"student.adapted", "teacher.features"})

    def terms(self, student, teacher):
        ours = {i: feature.mean((2, 3)) for i, feature in student.adapted.items()}
        theirs = {i: feature.mean((2, 3)) for i, feature in teacher.features.items()}
        return {f"stage{i}": 1 - F.cosine_similarity(ours[i], theirs[i]).mean() for i in self.stage_numbers(max(ours))}


def test_a_registered_loss_is_one_config_line() -> None:
    model = build(recipe=recipe("mtkd_ssr", **{"losses.cosine": {"type": "StageCosineLoss", "loss_weight": 2.0}}))
    out = model(**model.data_preprocessor(batch(), True), mode="loss")
    assert {"loss_cosine", "cosine", "cosine.stage1", "cosine.stage3"} <= set(out)
    torch.testing.assert_close(out["loss_cosine"].detach(), 2 * out["cosine"])
    alone = build(recipe={"losses": {"cosine": {"type": "StageCosineLoss"}}})
    assert set(alone.distill) == {"connectors"}
    assert not alone.plan.student_exits
