"""Losses on the networks' own answers."""

from typing import Any

from torch import Tensor

from kd_mm.losses.functional import softened
from kd_mm.losses.observation import Observation
from kd_mm.losses.responses import ResponseLoss
from kd_mm.registry import MODELS


@MODELS.register_module()
class KDLoss(ResponseLoss):
    """Knowledge distillation as Hinton et al. (2015): the student's logits follow the teacher's softened ones.

    ``KD_T = T^2 / B * sum KL(softmax(z_t / T) || softmax(z_s / T))``: sum over classes, mean over the batch.

    Args:
        temperature: T, dimensionless (4 is the habit on CIFAR, 1 on ImageNet).
        multilabel: Independent sigmoids instead of a softmax; then mean over classes.
        **kwargs: See :class:`kd_mm.losses.responses.ResponseLoss`.
    """

    requires = frozenset({"student.logits", "teacher.logits"})

    def __init__(self, temperature: float = 4.0, multilabel: bool = False, **kwargs: Any) -> None:
        super().__init__(multilabel=multilabel, **kwargs)
        self.temperature = temperature

    def terms(self, student: Observation, teacher: Observation | None) -> dict[str, Tensor]:
        """Return the divergence under the name ``final``."""
        assert student.logits is not None
        assert teacher is not None
        assert teacher.logits is not None
        ours, theirs = self.compared(student.logits), self.compared(teacher.logits)
        return {"final": softened(ours, theirs, self.temperature, self.multilabel)}
