"""Several teachers at once: their average, or weighted by how sure each is of the right class (CA-MKD)."""

import logging
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

from kd_mm.losses.base import LossContext, choice
from kd_mm.losses.functional import full_precision
from kd_mm.losses.observation import Observation
from kd_mm.losses.responses import ResponseLoss
from kd_mm.registry import MODELS


@MODELS.register_module()
class TeamLogitLoss(ResponseLoss):
    """The student's logits follow those of all teachers.

    ``L = T^2 / B sum_b sum_m w_mb KL(softmax(z_m / T) || softmax(z_s / T))`` over M teachers, with, for each sample,

    * ``"mean"``: ``w = 1 / M``, Hinton's KD averaged over the teachers;
    * ``"ca_mkd"``: ``w = (1 - softmax_m(CE(z_m, y))) / (M - 1)``, so a teacher that is wrong or unsure counts less, and
      the weights add up to 1 (CA-MKD, Zhang et al., ICASSP 2022, arXiv 2201.00007).

    Public code: ``Rorozhl/CA-MKD``, which divides the second form by M once more (its weight 1 is 1 / M here). Public
    settings: T 4, weight 1 beside the student's own loss with weight 1, and a term on features with weight 50,
    :class:`kd_mm.losses.MultiTeacherFeatureLoss`.

    Args:
        weights: ``"mean"`` or ``"ca_mkd"``.
        temperature: T > 0, dimensionless.
        **kwargs: See :class:`kd_mm.losses.responses.ResponseLoss`; without ``teacher``.

    Raises:
        ValueError: Unknown weights; ``"ca_mkd"`` with one teacher, or without a label for each answer.
    """

    requires = frozenset({"student.logits", "teacher.logits", "student.targets"})
    all_teachers = True

    def __init__(self, weights: str = "mean", temperature: float = 4.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weights = choice("weights", weights, ("mean", "ca_mkd"))
        self.temperature = temperature

    def needs(self) -> frozenset[str]:
        """Return what is read: labels only where they weigh the teachers."""
        return self.requires if self.weights == "ca_mkd" else self.requires - {"student.targets"}

    def not_for_detectors(self) -> str:
        """Return why a detector cannot use it: labels of images weigh the teachers."""
        if self.weights != "ca_mkd":
            return ""
        return "weights='ca_mkd' rate the teachers by the label of an image; take the recipe multi_kd (weights='mean')"

    def setup(self, context: LossContext) -> None:
        """Check that there are teachers to weigh against each other; see the base class for errors."""
        super().setup(context)
        if self.weights == "ca_mkd" and len(self.team) < 2:
            raise ValueError("TeamLogitLoss: weights='ca_mkd' compares teachers, and there is one; use weights='mean'")
        if len(self.team) < 2:
            print_log(
                "TeamLogitLoss averages over teachers, and there is one: that is the recipe kd; give more teachers "
                "(--teacher A B --teacher-checkpoint A.pth B.pth) for the comparison with several",
                "current",
                logging.WARNING,
            )

    def terms(self, student: Observation, teacher: Observation | None) -> dict[str, Tensor]:
        """Return the weighted divergence from each teacher."""
        assert teacher is not None
        assert student.logits is not None
        answers = {name: view.logits for name, view in teacher.team.items() if view.logits is not None}
        with torch.no_grad():
            rated = self.weights == "ca_mkd"
            shares = confidence_weights(list(answers.values()), student.targets) if rated else None
        log_q = F.log_softmax(self.compared(student.logits) / self.temperature, dim=-1)
        parts = {}
        for index, (name, logits) in enumerate(answers.items()):
            log_p = F.log_softmax(self.compared(logits) / self.temperature, dim=-1)
            divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1) * self.temperature**2
            parts[name] = (divergence / len(answers) if shares is None else divergence * shares[index]).mean()
        return parts


def confidence_weights(answers: list[Tensor], targets: Any) -> Tensor:
    """Return CA-MKD's weights ``(M, B)`` of M teachers, which add up to 1 for each sample.

    Args:
        answers: Logits ``(B, K)`` of each teacher; the weights are constants where these are.
        targets: Class indices ``(B,)`` or soft labels ``(B, K)``.

    Raises:
        ValueError: There is not one label for each answer.
    """
    if not isinstance(targets, Tensor) or len(targets) != len(answers[0]):
        raise ValueError("CA-MKD weights need one label for each answer, as in classification; use weights='mean'")
    errors = torch.stack([F.cross_entropy(full_precision(logits), targets, reduction="none") for logits in answers])
    return (1 - errors.softmax(dim=0)) / (len(answers) - 1)
