"""Hints on feature maps (FitNets), and the base of losses that compare one pair of maps a stage."""

import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.base import Loss
from kd_mm.losses.functional import full_precision, same_size
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS


class FeatureLoss(Loss):
    """Base of losses that compare the student's and the teacher's map of each stage in :meth:`compare`.

    The student's map is the adapted one where a subclass requires ``student.adapted``, else the stage's own.
    """

    requires = frozenset({"student.adapted", "teacher.features"})

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        maps = student.adapted if "student.adapted" in self.requires else student.features
        return {
            f"stage{i}": self.compare(full_precision(maps[i]), full_precision(teacher.features[i].detach()), i)
            for i in self.stage_numbers(max(maps))
        }

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        """Return the distance of two maps ``(B, C_s, H_s, W_s)`` and ``(B, C_t, H_t, W_t)``, a scalar.

        Args:
            student: The student's map, at least float32.
            teacher: The teacher's map, likewise; a constant.
            stage: Number of the stage, from 1. Default: 1.
        """
        raise NotImplementedError


@MODELS.register_module()
class FitNetsLoss(FeatureLoss):
    """Compare the student's connected map with the teacher's: FitNets (Romero et al. 2015, arXiv 1412.6550).

    ``L = sum_i mean_{b,c,h,w} (r(F_s^i) - F_t^i)^2``, ``r`` being the recipe's connector; of maps of different sizes
    the larger one is pooled (our reading). One phase beside the task's loss, as in mdistiller's ``FitNet`` and
    MMRazor's ``L2Loss``; the paper has two.
    """

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        return F.mse_loss(*same_size(student, teacher))
