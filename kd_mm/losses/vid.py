"""Variational information distillation (VID)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_mm.losses.base import LossContext
from kd_mm.losses.fitnets import FeatureLoss
from kd_mm.losses.functional import same_size
from kd_mm.registry import MODELS


@MODELS.register_module()
class VIDLoss(FeatureLoss):
    """Predict the teacher's map from the student's with learned uncertainty: VID (Ahn et al. 2019, arXiv 1904.05835).

    ``L = sum_i mean_{b,c,h,w} 1/2 [ (mu(F_s^i) - F_t^i)^2 / v_c + log v_c ]``, ``v_c = softplus(a_c) + eps``: a bound
    of the mutual information in which channels that cannot be predicted count less. ``mu`` is three 1x1 convolutions
    without bias and with ReLU between them, of the teacher's width; it and ``a`` are learned. It can be negative.

    Public code: RepDistiller's ``VIDLoss``; in mdistiller's ``VID`` the variances are not trained.

    Args:
        initial_variance: Initial ``v_c``, in units of the feature map squared; above ``eps``. Default: 5.
        eps: Smallest variance, above 0. Default: 1e-5.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For an initial variance that is not above ``eps``, or an ``eps`` that is not above 0.
    """

    requires = frozenset({"student.features", "teacher.features"})

    def __init__(self, initial_variance: float = 5.0, eps: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < eps < initial_variance:
            raise ValueError(f"VIDLoss: initial_variance={initial_variance} must be above eps={eps}, eps above 0")
        self.initial_variance, self.eps = initial_variance, eps
        self.regressors = nn.ModuleDict()
        self.scales = nn.ParameterDict()

    def setup(self, context: LossContext) -> None:
        # The inverse of the softplus, exact where exp() would overflow.
        start = torch.tensor(self.initial_variance - self.eps, dtype=torch.float64)
        start = start + torch.log(-torch.expm1(-start))
        for i in self.stage_numbers(len(context.pairs)):
            width, out = (stage.channels for stage in context.pairs[i - 1])
            first, second, third = (nn.Conv2d(channels, out, 1, bias=False) for channels in (width, out, out))
            self.regressors[f"stage{i}"] = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
            self.scales[f"stage{i}"] = nn.Parameter(torch.full((out,), float(start)))

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        """Return the negative log-likelihood of a map ``(B, C_t, H, W)`` given ``(B, C_s, H, W)``, a scalar."""
        student, teacher = same_size(student, teacher)
        mean = self.regressors[f"stage{stage}"](student)
        variance = (F.softplus(self.scales[f"stage{stage}"]) + self.eps).view(1, -1, 1, 1)
        return 0.5 * ((mean - teacher).square() / variance + variance.log()).mean()
