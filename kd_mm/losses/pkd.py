"""Feature maps compared by correlation (PKD)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.base import choice
from kd_mm.losses.fitnets import FeatureLoss
from kd_mm.losses.functional import same_size, standardized_channels
from kd_mm.registry import MODELS


@MODELS.register_module()
class PKDLoss(FeatureLoss):
    """Correlate each channel of the student with the teacher's: PKD (Cao et al. 2022, arXiv 2207.02039).

    ``L_PKD = sum_i mean_{b,c,h,w} (n(F_s^i) - n(F_t^i))^2 / 2``, where ``n`` brings every channel to mean 0 and
    standard deviation 1 over batch and space (unbiased, plus 1e-6). Up to the bias that is ``1 - r`` with Pearson's
    ``r``. Of maps of different sizes the student's is resized (bilinear). Public code: MMRazor's ``PKDLoss``, without
    a connector.

    Args:
        resize: Which map is brought to the other's size where they differ: ``"student"`` or ``"teacher"`` (bilinear),
            or the larger of the two to the ``"smaller"`` (adaptive average). MMRazor's default is the student; it
            compares heights only, here the widths count too. Default: ``"student"``.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For an unknown ``resize``.
    """

    def __init__(self, resize: str = "student", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.resize = choice("resize", resize, ("student", "teacher", "smaller"))

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        """Return the distance of two maps ``(B, C, H, W)`` of equal C, a scalar."""
        if student.shape[2:] != teacher.shape[2:]:
            if self.resize == "smaller":
                student, teacher = same_size(student, teacher)
            elif self.resize == "student":
                student = F.interpolate(student, teacher.shape[2:], mode="bilinear")
            else:
                teacher = F.interpolate(teacher, student.shape[2:], mode="bilinear")
        return F.mse_loss(standardized_channels(student)[0], standardized_channels(teacher)[0]) / 2
