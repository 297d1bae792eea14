"""Feature maps compared place by place: FitNets, attention transfer, VID."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_mm.losses.base import Loss, LossContext
from kd_mm.losses.functional import full_precision
from kd_mm.losses.observation import Observation
from kd_mm.losses.pooling import adaptive_average
from kd_mm.registry import MODELS


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps at the smaller of their sizes: the larger one is pooled (adaptive average).

    Args:
        student: ``(B, C_s, H_s, W_s)``.
        teacher: ``(B, C_t, H_t, W_t)``.
    """
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    if student.shape[2:] != size:
        student = adaptive_average(student, size)
    if teacher.shape[2:] != size:
        teacher = adaptive_average(teacher, size)
    return student, teacher


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

    def terms(self, student: Observation, teacher: Observation | None) -> dict[str, Tensor]:
        """Return the squared distance of each stage."""
        assert teacher is not None
        return {
            f"stage{i}": self.compare(student.adapted[i], teacher.features[i].detach())
            for i in self.stage_numbers(max(student.adapted))
        }

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean squared distance of two maps ``(B, C, H, W)`` of equal C, a scalar."""
        return F.mse_loss(*same_size(full_precision(student), full_precision(teacher)))


@MODELS.register_module()
class ATLoss(Loss):
    """The student attends to the places that the teacher attends to: AT (Zagoruyko & Komodakis 2017, arXiv 1612.03928).

    ``L = sum_i mean_{b,h,w} (Q(F_s^i) - Q(F_t^i))^2``, where ``Q`` is the map ``mean_c |F|^p`` divided by its L2 norm
    over all places. The widths need not agree, so there is no connector. The scale of a map does not matter.

    Public code: ``szagoruyko/attention-transfer``, RepDistiller's ``Attention``, mdistiller's ``AT``, MMRazor's
    ``ATLoss``. They agree but for sizes: MMRazor refuses maps of unlike sizes, the others pool the larger one, and so
    does this. Public settings: p 2, weight 1000, all stages.

    Args:
        power: p > 0.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: A power that is not above 0.
    """

    requires = frozenset({"student.features", "teacher.features"})

    def __init__(self, power: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if power <= 0:
            raise ValueError(f"ATLoss: power={power} must be above 0")
        self.power = power

    def terms(self, student: Observation, teacher: Observation | None) -> dict[str, Tensor]:
        """Return the distance of the attention maps of each stage."""
        assert teacher is not None
        return {
            f"stage{i}": self.compare(student.features[i], teacher.features[i].detach())
            for i in self.stage_numbers(max(student.features))
        }

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the distance of two maps ``(B, C_s, H, W)`` and ``(B, C_t, H, W)``, a scalar."""
        student, teacher = same_size(full_precision(student), full_precision(teacher))
        return F.mse_loss(self.attention(student), self.attention(teacher))

    def attention(self, feature: Tensor) -> Tensor:
        """Return the normalised attention ``(B, H W)`` of a map ``(B, C, H, W)``; zeros for a map of zeros."""
        # Powers of powers leave float32 soon; the result does not depend on the scale, so neither does its gradient.
        scale = feature.detach().abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(feature.dtype).tiny)
        return F.normalize((feature / scale).abs().pow(self.power).mean(dim=1).flatten(1), dim=1)


@MODELS.register_module()
class VIDLoss(Loss):
    """The student's map predicts the teacher's with learned uncertainty: VID (Ahn et al. 2019, arXiv 1904.05835).

    ``L = sum_i mean_{b,c,h,w} 1/2 [ (mu(F_s^i) - F_t^i)^2 / v_c + log v_c ]``, ``v_c = softplus(a_c) + eps``: a bound
    of the mutual information in which channels that cannot be predicted count less. ``mu`` is three 1x1 convolutions
    without bias and with ReLU between them, of the teacher's width; it and ``a`` are learned. It can be negative.

    Public code: RepDistiller's ``VIDLoss``. mdistiller's ``VID`` has the same formula, but hands ``a`` to no optimizer,
    so that its variances stay as they are. Both pool the larger map, as this does. Public settings: weight 1, all
    stages, variance 5 at first, eps 1e-5.

    Args:
        initial_variance: ``v_c`` at first, in units of the feature map squared; above ``eps``.
        eps: Smallest variance.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: An initial variance that is not above ``eps``, or an ``eps`` that is not above 0.
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
        """Create regressor and variances of each stage that is read, of the measured widths."""
        # The inverse of the softplus, exact where exp() would overflow.
        start = torch.tensor(self.initial_variance - self.eps, dtype=torch.float64)
        start = start + torch.log(-torch.expm1(-start))
        for i in self.stage_numbers(len(context.pairs)):
            ours, theirs = (stage.channels for stage in context.pairs[i - 1])
            self.regressors[f"stage{i}"] = nn.Sequential(
                nn.Conv2d(ours, theirs, 1, bias=False),
                nn.ReLU(),
                nn.Conv2d(theirs, theirs, 1, bias=False),
                nn.ReLU(),
                nn.Conv2d(theirs, theirs, 1, bias=False),
            )
            self.scales[f"stage{i}"] = nn.Parameter(torch.full((theirs,), float(start)))

    def terms(self, student: Observation, teacher: Observation | None) -> dict[str, Tensor]:
        """Return the negative log-likelihood of each stage."""
        assert teacher is not None
        return {
            f"stage{i}": self.compare(student.features[i], teacher.features[i].detach(), i)
            for i in self.stage_numbers(max(student.features))
        }

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        """Return the negative log-likelihood of a teacher map ``(B, C_t, H, W)`` given ``(B, C_s, H, W)``, a scalar.

        Args:
            student: The student's map.
            teacher: The teacher's map.
            stage: Number of the stage, from 1; its regressor and variances are taken.
        """
        student, teacher = same_size(full_precision(student), full_precision(teacher))
        mean = self.regressors[f"stage{stage}"](student)
        variance = (F.softplus(self.scales[f"stage{stage}"]) + self.eps).view(1, -1, 1, 1)
        return 0.5 * ((mean - teacher).square() / variance + variance.log()).mean()
