"""Knowledge distillation from several teachers: averaged, weighted by confidence (CA-MKD) or by the student (GPAC)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

from kd_mm.losses.base import ALL_TASKS, LossContext, MultiTeacherLoss, choice
from kd_mm.losses.functional import confidence_weights
from kd_mm.losses.kd import LogitsLoss
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS

WEIGHTS = ("mean", "ca_mkd", "softmax", "inverse", "cosine")
#: Lower limit of a divergence that divides.
_TINY = 1e-8


@MODELS.register_module()
class MultiTeacherKDLoss(MultiTeacherLoss, LogitsLoss):
    """Compare the student's logits with those of all teachers, each teacher weighted for each sample.

    ``L = T^2 / B sum_b sum_m w_mb k_mb`` with ``k_mb = KL(softmax(z_m / T) || softmax(z_s / T))`` over M teachers. The
    weights of a sample add up to 1:

    * ``"mean"``: ``w = 1 / M``, Hinton's KD averaged over the teachers;
    * ``"ca_mkd"``: ``w = (1 - softmax_m(CE(z_m, y))) / (M - 1)``, from the label: a wrong or unsure teacher counts less
      (CA-MKD, Zhang et al., ICASSP 2022, arXiv 2201.00007);
    * ``"softmax"``: ``w = softmax_m(-k_m / kappa)``;
    * ``"inverse"``: ``w = (1 / k_m) / sum_n (1 / k_n)``;
    * ``"cosine"``: ``w = softmax_m(cos(z_s, z_m) / kappa)``.

    The last three are the adaptive instruction of GPAC (Neural Networks 164, 2023, doi 10.1016/j.neunet.2023.04.015),
    whose weights come from the divergence between the student and each teacher and stress the direction in which the
    student predicts already. Its equations were not available: these three rules are our reading.

    Public code of CA-MKD: ``Rorozhl/CA-MKD``, which divides by M once more (its weight 1 is 1 / M here).

    Args:
        weights: One of the rules above. Default: ``"mean"``.
        temperature: T > 0, dimensionless. Default: 4.
        kappa: Temperature > 0 of the softmax over teachers; in units of ``k`` with ``"softmax"``. Default: 1.
        granularity: ``"sample"``, or ``"batch"`` to average what the rule reads over the batch first. Default:
            ``"sample"``.
        detach: Whether the weights are constants. Otherwise the student also lowers the loss by moving towards the
            teacher that costs least. Default: True.
        **kwargs: See :class:`kd_mm.losses.kd.LogitsLoss`; without ``teacher``.

    Raises:
        ValueError: For an unknown rule or granularity, or a ``kappa`` or ``temperature`` that is not above 0; on use,
            for ``"ca_mkd"`` with one teacher or without a label for each row of logits.
    """

    requires = frozenset({"student.logits", "teacher.logits", "student.targets"})
    instead = "weights='ca_mkd' rate the teachers by the label of an image; take the recipe multi_kd (weights='mean')"

    def __init__(
        self,
        weights: str = "mean",
        temperature: float = 4.0,
        kappa: float = 1.0,
        granularity: str = "sample",
        detach: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.weights = choice("weights", weights, WEIGHTS)
        self.granularity = choice("granularity", granularity, ("sample", "batch"))
        for name, value in (("kappa", kappa), ("temperature", temperature)):
            if value <= 0:
                raise ValueError(f"MultiTeacherKDLoss: {name}={value} must be above 0")
        self.temperature, self.kappa, self.detach = temperature, kappa, detach
        if weights == "ca_mkd":
            self.tasks = ALL_TASKS - {"detection"}
        else:
            self.requires = self.requires - {"student.targets"}

    def setup(self, context: LossContext) -> None:
        """Check that there are teachers to weigh against each other; see the base class for errors."""
        super().setup(context)
        if self.weights == "ca_mkd" and len(self.teacher_names) < 2:
            raise ValueError(
                "MultiTeacherKDLoss: weights='ca_mkd' compares teachers, and there is one; use weights='mean'"
            )
        if len(self.teacher_names) < 2:
            print_log(
                "MultiTeacherKDLoss averages over teachers, and there is one: that is the recipe kd; give more "
                "teachers (--teacher A B --teacher-checkpoint A.pth B.pth) for the comparison with several",
                "current",
                logging.WARNING,
            )

    def terms(self, student: Observation, teachers: Mapping[str, Observation]) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the weighted divergence from each teacher, by its name."""
        logits = [teacher.logits for teacher in teachers.values()]
        student_logits, compared = self.compared(student.logits), torch.stack([self.compared(z) for z in logits])
        log_q = F.log_softmax(student_logits / self.temperature, dim=-1).expand_as(compared)
        log_p = F.log_softmax(compared / self.temperature, dim=-1)
        divergences = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach):
            if self.weights == "ca_mkd":
                weights = confidence_weights(logits, student.targets, average=self.granularity == "batch")
            else:
                weights = self.instruction_weights(divergences, student_logits, compared)
        terms = (weights * divergences).mean(dim=1) * self.temperature**2
        return dict(zip(teachers, terms.unbind(), strict=True))

    def instruction_weights(self, divergences: Tensor, student: Tensor, teachers: Tensor) -> Tensor:
        """Return the weights ``(M, B)`` of M teachers that need no label; they add up to 1 for each sample.

        Args:
            divergences: ``k``, ``(M, B)``.
            student: The student's logits ``(B, K)``.
            teachers: Logits ``(M, B, K)``.
        """
        if self.weights == "mean":
            return torch.full_like(divergences, 1 / len(teachers))
        if self.weights == "cosine":
            scores = F.cosine_similarity(student.expand_as(teachers), teachers, dim=-1)
        else:
            scores = -divergences
        if self.granularity == "batch":
            scores = scores.mean(dim=1, keepdim=True).expand_as(scores)
        if self.weights != "inverse":
            return (scores / self.kappa).softmax(dim=0)
        # Rounding can take a divergence of nearly equal logits below zero.
        closeness = 1 / (-scores).clamp(min=_TINY)
        return closeness / closeness.sum(dim=0, keepdim=True)
