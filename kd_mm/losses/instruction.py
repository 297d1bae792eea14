"""Several teachers, each weighed by how close it is to what the student says: the instruction of GPAC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.base import choice
from kd_mm.losses.functional import full_precision
from kd_mm.losses.observation import Observation
from kd_mm.losses.responses import ResponseLoss
from kd_mm.registry import MODELS

RULES = ("softmax", "inverse", "cosine", "ca_mkd", "uniform")
#: Divergences below this count as this where they divide.
_TINY = 1e-8


@MODELS.register_module()
class InstructionLoss(ResponseLoss):
    """The student follows all teachers, most of all those that are near its own answer: GPAC's adaptive instruction.

    ``L = T^2 / B sum_b sum_m w_mb k_mb``, ``k_mb = KL(softmax(z_m / T) || softmax(z_s / T))``, over M teachers. GPAC
    (Neural Networks 164, 2023, doi 10.1016/j.neunet.2023.04.015) says that the weights come from the divergence between
    the student and each teacher and stress the direction in which the student answers already; its equations were not
    available. **Every rule for w is our reading**; for each sample the weights add up to 1:

    * ``"softmax"``: ``w = softmax_m(-k_m / kappa)``;
    * ``"inverse"``: ``w = (1 / k_m) / sum_n (1 / k_n)``;
    * ``"cosine"``: ``w = softmax_m(cos(z_s, z_m) / kappa)``;
    * ``"ca_mkd"``: ``w = (1 - softmax_m(CE(z_m, y))) / (M - 1)``, from the label (CA-MKD, arXiv 2201.00007);
    * ``"uniform"``: ``w = 1 / M``.

    Args:
        weight_rule: One of these.
        kappa: Temperature of the two softmaxes over teachers, above 0; ``"softmax"`` in units of ``k``.
        granularity: ``"sample"``, or ``"batch"``: what the rule reads is averaged over the batch first.
        detach: Whether the weights are constants; otherwise the student may also lower the loss by moving toward the
            teacher that costs least.
        temperature: T > 0, dimensionless.
        **kwargs: See :class:`kd_mm.losses.responses.ResponseLoss`; without ``teacher``.

    Raises:
        ValueError: An unknown rule or granularity, a kappa or temperature that is not above 0.
    """

    requires = frozenset({"student.logits", "teacher.logits", "student.targets"})
    all_teachers = True

    def __init__(
        self,
        weight_rule: str = "softmax",
        kappa: float = 1.0,
        granularity: str = "sample",
        detach: bool = True,
        temperature: float = 4.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.weight_rule = choice("weight_rule", weight_rule, RULES)
        self.granularity = choice("granularity", granularity, ("sample", "batch"))
        for name, value in (("kappa", kappa), ("temperature", temperature)):
            if value <= 0:
                raise ValueError(f"InstructionLoss: {name}={value} must be above 0")
        self.kappa, self.detach, self.temperature = kappa, detach, temperature

    def needs(self) -> frozenset[str]:
        """Return what is read: labels only where they weigh the teachers."""
        return self.requires if self.weight_rule == "ca_mkd" else self.requires - {"student.targets"}

    def not_for_detectors(self) -> str:
        """Return why a detector cannot use it: labels of images weigh the teachers."""
        if self.weight_rule != "ca_mkd":
            return ""
        return "weight_rule='ca_mkd' rates the teachers by the label of an image; use 'softmax'"

    def terms(self, student: Observation, teacher: Observation | None) -> dict[str, Tensor]:
        """Return the weighted divergence from each teacher, by its name."""
        assert teacher is not None
        assert student.logits is not None
        names = [name for name, view in teacher.team.items() if view.logits is not None]
        ours = self.compared(student.logits)
        theirs = [self.compared(logits) for name in names if (logits := teacher.team[name].logits) is not None]
        log_q = F.log_softmax(ours / self.temperature, dim=-1)
        log_ps = [F.log_softmax(logits / self.temperature, dim=-1) for logits in theirs]
        divergences = torch.stack([F.kl_div(log_q, p, reduction="none", log_target=True).sum(dim=-1) for p in log_ps])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach):
            weights = self.instruction_weights(divergences, ours, theirs, student.targets)
        terms = (weights * divergences).mean(dim=1) * self.temperature**2
        return dict(zip(names, terms.unbind(), strict=True))

    def instruction_weights(
        self, divergences: Tensor, student: Tensor, teachers: Sequence[Tensor], targets: Any = None
    ) -> Tensor:
        """Return the weights ``(M, B)`` of M teachers; they add up to 1 for each sample.

        Args:
            divergences: ``k``, ``(M, B)``.
            student: Its logits ``(B, K)``.
            teachers: Logits ``(B, K)`` of each teacher.
            targets: Class indices ``(B,)`` or soft labels ``(B, K)``, for ``"ca_mkd"``.

        Raises:
            ValueError: ``"ca_mkd"`` without one label for each answer.
        """
        if self.weight_rule == "uniform" or len(teachers) == 1:
            return torch.full_like(divergences, 1 / len(teachers))
        if self.weight_rule == "cosine":
            cosines = [F.cosine_similarity(student, logits, dim=-1) for logits in teachers]
            return (self._averaged(torch.stack(cosines)) / self.kappa).softmax(dim=0)
        if self.weight_rule == "ca_mkd":
            return (1 - self._averaged(_errors(teachers, targets)).softmax(dim=0)) / (len(teachers) - 1)
        divergences = self._averaged(divergences)
        if self.weight_rule == "softmax":
            return (-divergences / self.kappa).softmax(dim=0)
        # Rounding can take a divergence of nearly equal answers below zero.
        closeness = 1 / divergences.clamp(min=_TINY)
        return closeness / closeness.sum(dim=0, keepdim=True)

    def _averaged(self, scores: Tensor) -> Tensor:
        return scores.mean(dim=1, keepdim=True).expand_as(scores) if self.granularity == "batch" else scores


def _errors(teachers: Sequence[Tensor], targets: Any) -> Tensor:
    if not isinstance(targets, Tensor) or len(targets) != len(teachers[0]):
        raise ValueError(
            "InstructionLoss: weight_rule='ca_mkd' needs one label for each answer, as in classification; use 'softmax'"
        )
    return torch.stack([F.cross_entropy(full_precision(logits), targets, reduction="none") for logits in teachers])
