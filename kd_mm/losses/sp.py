"""Similarities between the samples of a batch (SP)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.base import ALL_TASKS, Loss
from kd_mm.losses.functional import full_precision
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS


@MODELS.register_module()
class SPLoss(Loss):
    """Samples that are alike for the teacher are alike for the student: similarity preserving, SP.

    SP (Tung and Mori, ICCV 2019, arXiv 1907.09682): ``L = sum_i ||G_s^i - G_t^i||_F^2 / B^2``, where ``G = f f^T`` of
    the flattened maps ``(B, C H W)``, each row divided by its length. Widths and grids may differ; what is compared is
    ``(B, B)``, so it needs batches of some size. Public code: RepDistiller's ``Similarity``. Public settings: weight
    3000 beside the student's own loss with weight 1, on the last feature map.

    Args:
        **kwargs: See :class:`kd_mm.losses.base.Loss`; ``stages`` is the last one by default.
    """

    requires = frozenset({"student.features", "teacher.features"})
    tasks = ALL_TASKS - {"detection"}
    instead = (
        "it compares the images of a batch with each other, and a detector sees a few at a time; take a loss on maps "
        "(recipes at, pkd, cwd, fgd)"
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def stage_numbers(self, num_stages: int) -> tuple[int, ...]:
        """Return the stages that are read, the last one by default; see the base class for errors."""
        return super().stage_numbers(num_stages) if self.stages else (num_stages,)

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the distance of the similarity matrices of each stage."""
        return {
            f"stage{i}": self.compare(student.features[i], teacher.features[i].detach())
            for i in self.stage_numbers(max(student.features))
        }

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the distance of the similarities in two maps or embeddings ``(B, ...)``, a scalar."""
        return F.mse_loss(similarities(student), similarities(teacher))


def similarities(feature: Tensor) -> Tensor:
    """Return the inner products ``(B, B)`` of the samples of ``(B, ...)``, each row of length 1, at least float32."""
    flat = full_precision(feature).flatten(1)
    return F.normalize(flat @ flat.T, dim=1)
