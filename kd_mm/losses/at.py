"""Attention transfer (AT)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.fitnets import FeatureLoss
from kd_mm.losses.functional import same_size
from kd_mm.registry import MODELS


@MODELS.register_module()
class ATLoss(FeatureLoss):
    """Compare the spatial attention of student and teacher: AT (Zagoruyko & Komodakis 2017, arXiv 1612.03928).

    ``L = sum_i mean_{b,h,w} (Q(F_s^i) - Q(F_t^i))^2``, where ``Q`` is the map ``mean_c |F|^p`` divided by its L2 norm
    over all positions; of maps of different sizes the larger one is pooled. The widths need not agree. Public code:
    ``szagoruyko/attention-transfer``, RepDistiller, mdistiller, MMRazor (which refuses different sizes).

    Args:
        power: p > 0. Default: 2.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For a power that is not above 0.
    """

    requires = frozenset({"student.features", "teacher.features"})

    def __init__(self, power: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if power <= 0:
            raise ValueError(f"ATLoss: power={power} must be above 0")
        self.power = power

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        student, teacher = same_size(student, teacher)
        return F.mse_loss(self.attention(student), self.attention(teacher))

    def attention(self, feature: Tensor) -> Tensor:
        """Return the normalised attention ``(B, H W)`` of a map ``(B, C, H, W)``; zeros for a map of zeros."""
        # Powers of powers leave float32 soon; the result does not depend on the scale, so neither does its gradient.
        scale = feature.detach().abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(feature.dtype).tiny)
        return F.normalize((feature / scale).abs().pow(self.power).mean(dim=1).flatten(1), dim=1)
