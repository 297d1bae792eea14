"""Similarities between the samples of a batch (SP)."""

import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.base import ALL_TASKS
from kd_mm.losses.fitnets import FeatureLoss
from kd_mm.registry import MODELS


@MODELS.register_module()
class SPLoss(FeatureLoss):
    """Preserve the teacher's similarities between the samples of a batch: SP.

    SP (Tung and Mori, ICCV 2019, arXiv 1907.09682): ``L = sum_i ||G_s^i - G_t^i||_F^2 / B^2``, where ``G = f f^T`` of
    the flattened maps ``(B, C H W)``, each row divided by its length. Widths and grids may differ. Public code:
    RepDistiller's ``Similarity``.
    ``stages`` is the last one by default.
    """

    requires = frozenset({"student.features", "teacher.features"})
    reads_last_stage = True
    tasks = ALL_TASKS - {"detection"}
    instead = (
        "it compares the images of a batch with each other, and a detector gets a few at a time; take a loss on maps "
        "(recipes at, pkd, cwd, fgd)"
    )

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        """Return the distance of the similarities in two maps or embeddings ``(B, ...)``, a scalar."""
        return F.mse_loss(similarities(student), similarities(teacher))


def similarities(feature: Tensor) -> Tensor:
    """Return the inner products ``(B, B)`` of the samples of ``(B, ...)``, each row of length 1."""
    flat = feature.flatten(1)
    return F.normalize(flat @ flat.T, dim=1)
