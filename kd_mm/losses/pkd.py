"""Feature maps compared by correlation (PKD)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.base import Loss, choice
from kd_mm.losses.functional import full_precision
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS

_EPS = 1e-6


@MODELS.register_module()
class PKDLoss(Loss):
    """Each channel of the student correlates with the teacher's: PKD (Cao et al. 2022, arXiv 2207.02039).

    ``L_PKD = sum_i mean_{b,c,h,w} (n(F_s^i) - n(F_t^i))^2 / 2``, where ``n`` takes every channel to mean 0 and standard
    deviation 1 over batch and space (unbiased, plus 1e-6). But for the bias that is ``1 - r`` with Pearson's ``r``, so
    neither scale nor offset of the teacher's channels matters, and detectors of different families may be paired.

    Public code: MMRazor's ``PKDLoss`` and CrossKD's copy of it agree. Public weights by level of the neck: 6 for Faster
    R-CNN (levels 1..4), 10 for RetinaNet and FCOS teachers (levels 1..4). Both need equal widths and use no connector;
    here ``student.adapted`` is read, which is the plain map where the recipe's connectors have
    ``policy="on_mismatch"`` and the widths agree.

    Args:
        resize: Which map is brought to the other's size (bilinear) where they differ: ``"student"`` or ``"teacher"``.
            MMRazor's default is the student; it only looks at the heights, here the widths count too.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: An unknown ``resize``.
    """

    requires = frozenset({"student.adapted", "teacher.features"})

    def __init__(self, resize: str = "student", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.resize = choice("resize", resize, ("student", "teacher"))

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return half the squared distance of the standardised maps of each stage."""
        return {
            f"stage{i}": self.compare(student.adapted[i], teacher.features[i].detach())
            for i in self.stage_numbers(max(student.adapted))
        }

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the distance of two maps ``(B, C, H, W)`` of equal C, a scalar."""
        student, teacher = full_precision(student), full_precision(teacher)
        if student.shape[2:] != teacher.shape[2:]:
            if self.resize == "student":
                student = F.interpolate(student, teacher.shape[2:], mode="bilinear", align_corners=False)
            else:
                teacher = F.interpolate(teacher, student.shape[2:], mode="bilinear", align_corners=False)
        return F.mse_loss(_standardised(student), _standardised(teacher)) / 2


def _standardised(feature: Tensor) -> Tensor:
    # One single value has no spread; the unbiased estimate of it would be 0 / 0.
    values = feature.numel() // feature.shape[1]
    std, mean = torch.std_mean(feature, dim=(0, 2, 3), correction=min(1, values - 1), keepdim=True)
    return (feature - mean) / (std + _EPS)
