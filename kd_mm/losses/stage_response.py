"""Losses on stage responses: stage-wise response distillation (SRD) of MTKD-SSR."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kd_mm.losses.base import choice
from kd_mm.losses.functional import softened, valid_classes
from kd_mm.losses.observation import Observation
from kd_mm.losses.responses import ResponseLoss
from kd_mm.registry import MODELS


@MODELS.register_module()
class StageResponseLoss(ResponseLoss):
    """The logits of each student stage follow the teacher's.

    ``L_SRD = sum_i beta_i KD_T(z_t^i -> z_s^i)``. MTKD-SSR (Gou et al., IJCV 2023) states response distillation at
    different stages; the formula, weights and temperature are our reading.

    Args:
        temperature: T, dimensionless (our reading: 4 on CIFAR, CUB and re-ID, 1 on ImageNet and in detection).
        target: ``"same_stage"`` or ``"final"`` (the teacher's own answer at every student stage, as plain MSKD).
        include_last: Whether the last stage, the deployed answer, takes part; there it is Hinton's KD.
        stage_weights: beta, one a stage that takes part; all 1 by default.
        multilabel: Independent sigmoids instead of a softmax; by default as the task's stage responses are.
        **kwargs: See :class:`kd_mm.losses.responses.ResponseLoss`.
    """

    requires = frozenset({"student.stage_logits", "teacher.stage_logits"})

    def __init__(
        self,
        temperature: float = 4.0,
        target: str = "same_stage",
        include_last: bool = True,
        stage_weights: Sequence[float] | None = None,
        multilabel: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(multilabel=multilabel, **kwargs)
        self.temperature, self.include_last = temperature, include_last
        self.target = choice("target", target, ("same_stage", "final"))
        self.stage_weights = stage_weights

    def needs(self) -> frozenset[str]:
        """Return what is read: no teacher exit where every stage follows the teacher's own answer."""
        target = "teacher.stage_logits" if self.target == "same_stage" else "teacher.logits"
        return frozenset({"student.stage_logits", target, *(("student.targets",) if self.multilabel else ())})

    def not_for_detectors(self) -> str:
        """Return why a detector cannot use it: its own answer is on boxes."""
        if self.target == "same_stage":
            return ""
        return (
            "target='final' is the teacher's own answer, and a detector answers for boxes, a stage for the image; take "
            "target='same_stage' (recipes mskd, mtkd_ssr)"
        )

    def stage_numbers(self, num_stages: int) -> tuple[int, ...]:
        """Return the stages that take part; see the base class for errors."""
        stages = super().stage_numbers(num_stages)
        if not self.include_last:
            stages = tuple(stage for stage in stages if stage != num_stages)
        if self.stage_weights is not None and len(self.stage_weights) != len(stages):
            raise ValueError(f"StageResponseLoss: {len(self.stage_weights)} stage_weights for stages {list(stages)}")
        return stages

    def terms(self, student: Observation, teacher: Observation | None) -> dict[str, Tensor]:
        """Return the divergence of each stage, times its stage weight."""
        assert teacher is not None
        stages = self.stage_numbers(max(student.stage_logits))
        parts, mask = {}, valid_classes(student, self.multilabel)
        for i, beta in zip(stages, self.stage_weights or [1.0] * len(stages), strict=True):
            target = teacher.logits if self.target == "final" else teacher.stage_logits[i]
            assert target is not None
            ours, theirs = self.compared(student.stage_logits[i]), self.compared(target)
            value = softened(ours, theirs, self.temperature, self.multilabel, mask)
            parts[f"stage{i}"] = value if beta == 1.0 else beta * value
        return parts
