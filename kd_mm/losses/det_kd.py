"""Knowledge distillation on a detector's own class predictions."""

from typing import Any

import torch
from torch import Tensor

from kd_mm.losses.base import Loss, LossContext
from kd_mm.losses.functional import full_precision, kl_divergence, sigmoid_divergence, softmax_divergence
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS
from kd_mm.utils.suggest import choice


@MODELS.register_module()
class DetKDLoss(Loss):
    """Compare a detector's class logits with the teacher's, as Hinton et al. (2015), in the form of its head.

    Two-stage: ``KD_T`` over the K + 1 softmax logits ``(R, K + 1)`` of the RoI head, mean over the student's sampled
    regions, which the teacher classifies on its own features (the arrangement of mdistiller's detection code).

    Dense heads: class maps ``(B, N, K)`` on equal grids,
    ``T^2 / sum_n w_n * sum_n w_n sum_k KL(sigmoid(z_t / T) || sigmoid(z_s / T))`` with ``w_n`` the teacher's largest
    class probability at that location, which is our reading. A head with a channel more than classes (SSD, background
    last) uses the softmax KL. With ``weighting="quality"`` the divergences are weighted where the two networks differ,
    ``max_k |p_t - p_s|^gamma`` (a constant), and divided by ``sum_n w_n``, at least 1: the quality focal weight of GFL
    (Li et al. 2020, arXiv 2006.04388) between two predictions, our reading.

    Args:
        temperature: T > 0, dimensionless. Default: 1 (our reading for detection).
        weighting: Weights of a dense head's positions: ``"teacher"`` or ``"quality"``. Default: ``"teacher"``.
        gamma: Exponent of ``"quality"``. Default: 1.
        optional: Leave the loss out, with a line in the log, where the heads of student and teacher cannot be compared.
            Default: False, which is an error then.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.
    """

    requires = frozenset({"student.logits", "teacher.logits"})

    def __init__(
        self,
        temperature: float = 1.0,
        weighting: str = "teacher",
        gamma: float = 1.0,
        optional: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.temperature, self.gamma, self.optional = temperature, gamma, optional
        self.weighting = choice("weighting", weighting, ("teacher", "quality"))
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
            probabilities = [z.detach().softmax(dim=-1)[..., :-1] for z in (student, teacher)]
            divergence = softmax_divergence(z_s, z_t)
        else:
            probabilities = [z.detach().sigmoid() for z in (student, teacher)]
            divergence = sigmoid_divergence(z_s, z_t).sum(dim=-1)
        weight = probabilities[1].amax(dim=-1)
        scale = weight.sum().clamp(min=torch.finfo(weight.dtype).eps)
        if self.weighting == "quality":
            weight = (probabilities[1] - probabilities[0]).abs().amax(dim=-1).pow(self.gamma)
            scale = scale.clamp(min=1)
        return self.temperature**2 * (weight * divergence).sum() / scale
