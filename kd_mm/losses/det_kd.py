"""Knowledge distillation on a detector's own class predictions."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.base import Loss, LossContext
from kd_mm.losses.functional import full_precision, kl_divergence
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS


@MODELS.register_module()
class DetKDLoss(Loss):
    """Compare a detector's class logits with the teacher's, as Hinton et al. (2015), in the form of its head.

    Two-stage: ``KD_T`` over the K + 1 softmax logits ``(R, K + 1)`` of the RoI head, mean over the student's sampled
    regions, which the teacher classifies on its own features (the arrangement of mdistiller's detection code).

    Dense heads: class maps ``(B, N, K)`` on equal grids,
    ``T^2 / sum_n w_n * sum_n w_n sum_k KL(sigmoid(z_t / T) || sigmoid(z_s / T))`` with ``w_n`` the teacher's largest
    class probability at that location, which is our reading. A head with a channel more than classes (SSD, background
    last) uses the softmax KL.

    Args:
        temperature: T > 0, dimensionless. Default: 1 (our reading for detection).
        **kwargs: See :class:`kd_mm.losses.base.Loss`.
    """

    requires = frozenset({"student.logits", "teacher.logits"})

    def __init__(self, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature = temperature
        self.num_classes = 0

    def setup(self, context: LossContext) -> None:
        """Store the number of classes, by which a head with background is recognised."""
        self.num_classes = context.num_classes

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the divergence under the name ``regions`` or ``grid``."""
        if student.logits.ndim == 2:
            return {"regions": kl_divergence(student.logits, teacher.logits, self.temperature)}
        return {"grid": self._dense(full_precision(student.logits), full_precision(teacher.logits))}

    def _dense(self, student: Tensor, teacher: Tensor) -> Tensor:
        z_s, z_t = student / self.temperature, teacher / self.temperature
        if 0 < self.num_classes == student.shape[-1] - 1:
            weight = teacher.detach().softmax(dim=-1)[..., :-1].amax(dim=-1)
            log_q, log_p = F.log_softmax(z_s, dim=-1), F.log_softmax(z_t, dim=-1)
            divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)
        else:
            weight, p = teacher.detach().sigmoid().amax(dim=-1), z_t.sigmoid()
            cross = F.binary_cross_entropy_with_logits(z_s, p, reduction="none")
            divergence = (cross - F.binary_cross_entropy_with_logits(z_t, p, reduction="none")).sum(dim=-1)
        scale = weight.sum().clamp(min=torch.finfo(weight.dtype).eps)
        return self.temperature**2 * (weight * divergence).sum() / scale
