"""The consistency cost of Mean Teacher: probabilities compared by their squared distance."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.observation import Observation
from kd_mm.losses.responses import ResponseLoss
from kd_mm.registry import MODELS


@MODELS.register_module()
class ConsistencyLoss(ResponseLoss):
    """The student's probabilities equal the teacher's: Mean Teacher (Tarvainen and Valpola, NeurIPS 2017, 1703.01780).

    ``L = 1 / (B K) sum_b sum_k (softmax(z_s / T) - softmax(z_t / T))^2``: mean over batch and classes, so its gradient
    is small beside that of a divergence, and bounded however wrong the teacher is. Public code:
    ``CuriousAI/mean-teacher`` (``softmax_mse_loss``, T 1), with weight 100 on CIFAR-10 after a ramp of 5 epochs. Its
    other choice, the KL divergence, is :class:`kd_mm.losses.KDLoss` with T 1.

    Args:
        temperature: T > 0, dimensionless; our addition.
        **kwargs: See :class:`kd_mm.losses.responses.ResponseLoss`.

    Raises:
        ValueError: A temperature that is not above 0.
    """

    requires = frozenset({"student.logits", "teacher.logits"})

    def __init__(self, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if temperature <= 0:
            raise ValueError(f"ConsistencyLoss: temperature={temperature} must be above 0")
        self.temperature = temperature

    def terms(self, student: Observation, teacher: Observation | None) -> dict[str, Tensor]:
        """Return the distance under the name ``final``."""
        assert teacher is not None
        assert student.logits is not None
        assert teacher.logits is not None
        ours, theirs = (self.compared(logits) / self.temperature for logits in (student.logits, teacher.logits))
        return {"final": F.mse_loss(ours.softmax(dim=-1), theirs.softmax(dim=-1))}
