"""Cross-stage review distillation, the self-reflection of MTKD-SSR (its CRD; that name is taken in the field)."""

from typing import Any

import torch
from torch import Tensor

from kd_mm.losses.base import Loss, choice
from kd_mm.losses.functional import softened, valid_classes
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS


@MODELS.register_module()
class CrossStageReviewLoss(Loss):
    """The student's stages learn from each other's answers.

    Default ``L_REV = sum_{i<N} KD_T(z_s^{i+1} -> z_s^i)``: after each stage the student goes back over what the stage
    before had answered. MTKD-SSR (Gou et al., IJCV 2023) states a self-distillation of the student's responses after
    each stage; direction, pairing and weight are our reading and the largest open doubt about the method.

    Args:
        direction: ``"deep_to_shallow"`` (the deeper stage is the target), ``"shallow_to_deep"``, ``"bidirectional"``
            (both, half each) or ``"ensemble"`` (the mean of all stage logits is the target of every stage).
        pairs: ``"adjacent"`` (i+1 with i), ``"to_final"`` (N with every i) or ``"all_pairs"``; unused by
            ``"ensemble"``.
        detach_target: Whether the target is a constant; otherwise the better stage is dragged toward the worse one.
        temperature: T, dimensionless.
        multilabel: Independent sigmoids instead of a softmax; by default as the task's stage responses are.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.
    """

    requires = frozenset({"student.stage_logits"})

    def __init__(
        self,
        direction: str = "deep_to_shallow",
        pairs: str = "adjacent",
        detach_target: bool = True,
        temperature: float = 4.0,
        multilabel: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.direction = choice(
            "direction", direction, ("deep_to_shallow", "shallow_to_deep", "bidirectional", "ensemble")
        )
        self.pairs = choice("pairs", pairs, ("adjacent", "to_final", "all_pairs"))
        self.detach_target, self.temperature, self.multilabel = detach_target, temperature, multilabel

    def needs(self) -> frozenset[str]:
        """Return what is read: with independent sigmoids also which classes count."""
        return self.requires | {"student.targets"} if self.multilabel else self.requires

    def divergence(self, target: Tensor, learner: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return ``KD_T(target -> learner)`` of logits ``(B, K)``."""
        target = target.detach() if self.detach_target else target
        return softened(learner, target, self.temperature, self.multilabel, mask)

    def paired(self, stages: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return the (shallow, deep) pairs among ``stages``."""
        if self.pairs == "adjacent":
            return list(zip(stages[:-1], stages[1:], strict=True))
        if self.pairs == "to_final":
            return [(i, stages[-1]) for i in stages[:-1]]
        return [(i, j) for k, i in enumerate(stages) for j in stages[k + 1 :]]

    def terms(self, student: Observation, teacher: Observation | None) -> dict[str, Tensor]:
        """Return the divergence of each pair of stages (``stage2to1``) or, for the ensemble, of each stage."""
        logits, mask = student.stage_logits, valid_classes(student, self.multilabel)
        stages = self.stage_numbers(max(logits))
        if len(stages) < 2:
            return {"none": logits[stages[-1]].sum() * 0.0}
        if self.direction == "ensemble":
            mean = torch.stack([logits[i] for i in stages]).mean(dim=0)
            return {f"stage{i}": self.divergence(mean, logits[i], mask) for i in stages}
        parts = {}
        for i, j in self.paired(stages):
            down, up = self.direction != "shallow_to_deep", self.direction != "deep_to_shallow"
            share = 0.5 if down and up else 1.0
            if down:
                parts[f"stage{j}to{i}"] = share * self.divergence(logits[j], logits[i], mask)
            if up:
                parts[f"stage{i}to{j}"] = share * self.divergence(logits[i], logits[j], mask)
        return parts
