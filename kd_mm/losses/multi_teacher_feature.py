"""Feature maps of several teachers at once: hints averaged, or weighted by confidence (CA-MKD)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.base import LossContext, MultiTeacherLoss, choice
from kd_mm.losses.functional import confidence_weights, full_precision, same_size
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS


@MODELS.register_module()
class MultiTeacherFeatureLoss(MultiTeacherLoss):
    """Compare the student's connected maps with those of all teachers: the feature term of CA-MKD.

    ``L = 1 / B sum_b sum_m w_mb mean_{c,h,w} (r_m(F_s) - F_m)^2`` over M teachers at the last stage, ``r_m`` being the
    recipe's connector to teacher m, with, for each sample,

    * ``"ca_mkd"``: ``w = (1 - softmax_m(CE(g_m(r_m(F_s)), y))) / (M - 1)``, ``g_m`` the part of teacher m behind its
      last stage (pooling and classifier): a teacher whose classifier finds the label in the student's map counts more
      (CA-MKD, Zhang et al., ICASSP 2022, arXiv 2201.00007);
    * ``"mean"``: ``w = 1 / M``, FitNets with several teachers.

    Public code: ``Rorozhl/CA-MKD``, which divides the first form by M once more (its weight 50 is 50 / M here) and
    resizes the student's map before the connector; here the larger of both is pooled after it. As there, gradients pass
    through the weights.

    Args:
        weights: ``"ca_mkd"`` or ``"mean"``. Default: ``"ca_mkd"``.
        detach: Whether the weights are constants; the public code's are not. Default: False.
        **kwargs: See :class:`kd_mm.losses.base.Loss`; without ``teacher``. ``stages`` is the last one by default, and
            has to be with ``"ca_mkd"``.

    Raises:
        ValueError: For unknown weights; for ``"ca_mkd"`` with one teacher, at other stages, or without a label for each
            image.
    """

    requires = frozenset({"student.adapted", "student.targets", "teacher.features", "teacher.classifier"})
    reads_last_stage = True

    def __init__(self, weights: str = "ca_mkd", detach: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weights, self.detach = choice("weights", weights, ("mean", "ca_mkd")), detach
        if weights == "mean":
            self.requires = self.requires - {"student.targets", "teacher.classifier"}

    def stage_numbers(self, num_stages: int) -> tuple[int, ...]:
        """Return the stages that are read, see the base class.

        Raises:
            ValueError: For other stages than the last, where the teachers' classifiers read the maps.
        """
        stages = super().stage_numbers(num_stages)
        if self.weights == "ca_mkd" and stages != (num_stages,):
            raise ValueError(
                f"MultiTeacherFeatureLoss: stages={list(stages)}, but the teachers' classifiers read the last stage, "
                f"{num_stages}: leave stages out, or set weights='mean'"
            )
        return stages

    def setup(self, context: LossContext) -> None:
        """Check that there are teachers to compare with each other."""
        if self.weights == "ca_mkd" and len(self.teacher_names) < 2:
            raise ValueError(
                "MultiTeacherFeatureLoss: weights='ca_mkd' compares teachers, and there is one; use weights='mean'"
            )

    def terms(self, student: Observation, teachers: Mapping[str, Observation]) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the weighted distance to each teacher; the stages of ``"mean"`` are added up."""
        maps = student.adapted_by_teacher
        stages = self.stage_numbers(max(maps[next(iter(teachers))]))
        distances = torch.stack(
            [
                torch.stack([self.compare(maps[name][i], teacher.features[i].detach()) for i in stages]).sum(dim=0)
                for name, teacher in teachers.items()
            ]
        )
        if self.weights == "mean":
            values = distances.mean(dim=1) / len(teachers)
        else:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach):
                logits = [t.classifier(full_precision(maps[name][stages[-1]])) for name, t in teachers.items()]
                weights = confidence_weights(logits, student.targets)
            values = (weights * distances).mean(dim=1)
        return dict(zip(teachers, values.unbind(), strict=True))

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean squared distance ``(B,)`` of two maps ``(B, C, H, W)`` of equal C."""
        student, teacher = same_size(full_precision(student), full_precision(teacher))
        return F.mse_loss(student, teacher, reduction="none").flatten(1).mean(dim=1)
