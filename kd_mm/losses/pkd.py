"""Feature maps compared by correlation (PKD)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.fgd import object_masks
from kd_mm.losses.fitnets import FeatureLoss
from kd_mm.losses.functional import same_size, standardized_channels
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS
from kd_mm.utils.suggest import choice


@MODELS.register_module()
class PKDLoss(FeatureLoss):
    """Correlate each channel of the student with the teacher's: PKD (Cao et al. 2022, arXiv 2207.02039).

    ``L_PKD = sum_i mean_{b,c,h,w} (n(F_s^i) - n(F_t^i))^2 / 2``, where ``n`` brings every channel to mean 0 and
    standard deviation 1 over batch and space (unbiased, plus 1e-6). Up to the bias that is ``1 - r`` with Pearson's
    ``r``. Of maps of different sizes the student's is resized (bilinear). Public code: MMRazor's ``PKDLoss``, without
    a connector.

    With ``object_share`` s > 0 (our reading, detectors) small objects count as much as large ones: the error of a
    position is weighted by ``(1 - s) / positions + s M / sum M``, where ``M`` is 1 / (cells of the smallest box over
    the position), 0 where there is none (:func:`kd_mm.losses.fgd.object_masks`).

    Args:
        resize: Which map is brought to the other's size where they differ: ``"student"`` or ``"teacher"`` (bilinear),
            or the larger of the two to the ``"smaller"`` (adaptive average). MMRazor's default is the student; it
            compares heights only, here the widths count too. Default: ``"student"``.
        object_share: Share s of the weight that the objects have, 0 to 1. Default: 0, all positions alike.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For an unknown ``resize`` or an ``object_share`` outside of [0, 1].
    """

    def __init__(self, resize: str = "student", object_share: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= object_share <= 1:
            raise ValueError(f"PKDLoss: object_share={object_share} is no share of the weight; choose it from 0 to 1")
        self.resize = choice("resize", resize, ("student", "teacher", "smaller"))
        self.object_share = object_share
        if object_share:
            self.requires = self.requires | {"student.targets"}
            self.tasks = frozenset({"detection"})
            self.instead = "object_share weighs the boxes of objects; set it to 0"

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        return {name: self._average(error, student) for name, error in super().terms(student, teacher).items()}

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        """Return the distance of two maps ``(B, C, H, W)`` of equal C at each position, ``(B, H, W)``."""
        if student.shape[2:] != teacher.shape[2:]:
            if self.resize == "smaller":
                student, teacher = same_size(student, teacher)
            elif self.resize == "student":
                student = F.interpolate(student, teacher.shape[2:], mode="bilinear")
            else:
                teacher = F.interpolate(teacher, student.shape[2:], mode="bilinear")
        return (standardized_channels(student)[0] - standardized_channels(teacher)[0]).square().mean(dim=1) / 2

    def _average(self, error: Tensor, student: Observation) -> Tensor:
        if not self.object_share:
            return error.mean()
        objects = object_masks(student.targets.boxes, student.targets.shape, error[:, None])[0]
        of_objects = (error * objects).sum() / objects.sum().clamp(min=1)
        return (1 - self.object_share) * error.mean() + self.object_share * of_objects
