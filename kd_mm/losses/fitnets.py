"""Hints on feature maps (FitNets)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.base import Loss
from kd_mm.losses.functional import full_precision, same_size
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS


@MODELS.register_module()
class FitNetsLoss(Loss):
    """The student's connected map equals the teacher's: FitNets (Romero et al. 2015, arXiv 1412.6550).

    ``L = sum_i mean_{b,c,h,w} (r(F_s^i) - F_t^i)^2``, ``r`` being the recipe's connector. The paper first trains up to
    the hint alone, then the whole network; the field's benchmark has one phase with this loss beside the task's, and so
    has this.

    Public code: mdistiller's ``FitNet``, whose regressor is convolution, batch norm and ReLU (1 x 1 where sizes agree,
    as the connector here; a strided or transposed one elsewhere, where this pools the larger map), MMRazor's
    ``L2Loss``. Public settings: weight 100, one stage, the second of three.

    Args:
        **kwargs: See :class:`kd_mm.losses.base.Loss`.
    """

    requires = frozenset({"student.adapted", "teacher.features"})

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the squared distance of each stage."""
        return {
            f"stage{i}": self.compare(student.adapted[i], teacher.features[i].detach())
            for i in self.stage_numbers(max(student.adapted))
        }

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean squared distance of two maps ``(B, C, H, W)`` of equal C, a scalar."""
        return F.mse_loss(*same_size(full_precision(student), full_precision(teacher)))
