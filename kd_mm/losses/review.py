"""Cross-stage review: a student's stages learn from the logits of its own deeper stages (MTKD-SSR, BYOT)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kd_mm.losses.base import ALL_TASKS, Loss, LossContext, StageTerms
from kd_mm.losses.dkd import labelled_classes
from kd_mm.losses.functional import class_divergence, full_precision, kl_divergence
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS
from kd_mm.utils.suggest import choice


@MODELS.register_module()
class CrossStageReviewLoss(Loss):
    """Let the student's stages learn from each other's logits: cross-stage review, the self-reflection of MTKD-SSR.

    Default ``L_REV = sum_{i<N} KD_T(z_s^{i+1} -> z_s^i)``: each stage reviews its logits with those of the next one.
    MTKD-SSR (Gou et al., IJCV 2023) states a self-distillation of the student's stage logits after each stage;
    direction, pairing, weight and every option are our reading. For features as well as logits add
    :class:`kd_mm.losses.BYOTHintLoss` to the recipe.

    Args:
        direction: Where the target of a stage comes from. ``"deep_to_shallow"``: the deeper stage of a pair;
            ``"shallow_to_deep"``: the shallower one; ``"bidirectional"``: both, half each; ``"ensemble"``: the mean of
            all stage logits, for every stage; ``"deeper_mean"``: the mean of the logits of all deeper stages;
            ``"deeper_mean_teacher"``: the mean of those and the teacher's own logits. Default: ``"deep_to_shallow"``.
        pairs: ``"adjacent"`` (i+1 with i), ``"to_final"`` (N with every i) or ``"all_pairs"``; unused where the target
            is a mean. Default: ``"adjacent"``.
        detach_target: Whether the target is a constant; otherwise the better stage is drawn to the worse one. Default:
            True.
        samples: How much a sample counts. ``"all"``: 1; ``"right_and_surer"``: 1 where the target's largest class is
            the label and its probability of the label exceeds the learner's, else 0; ``"agreement"``: the overlap
            ``sum_k min(p_k, t_k)`` of the target's probabilities p with the teacher's own t. Probabilities are those
            of temperature 1, and the mean is over the batch, whatever the samples count. Default: ``"all"``.
        temperature: T > 0, dimensionless. Default: 4.
        multilabel: Use independent sigmoids instead of a softmax. Default: as the task's stage logits are.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For an unknown option; on construction of the Distiller, for samples that do not all count of
            multi-label stage logits; on use, for targets without a class for each row of logits.
    """

    requires = frozenset({"student.stage_logits", "student.valid_classes"})
    instead = "a detector classifies boxes, a stage the image; take another direction and samples='all'"

    def __init__(
        self,
        direction: str = "deep_to_shallow",
        pairs: str = "adjacent",
        detach_target: bool = True,
        samples: str = "all",
        temperature: float = 4.0,
        multilabel: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        means = ("ensemble", "deeper_mean", "deeper_mean_teacher")
        self.direction = choice("direction", direction, ("deep_to_shallow", "shallow_to_deep", "bidirectional", *means))
        self.pairs = choice("pairs", pairs, ("adjacent", "to_final", "all_pairs"))
        self.samples = choice("samples", samples, ("all", "right_and_surer", "agreement"))
        self.detach_target, self.temperature, self.multilabel = detach_target, temperature, multilabel
        if samples == "right_and_surer":
            self.requires = self.requires | {"student.targets"}
        if samples == "agreement" or direction == "deeper_mean_teacher":
            self.requires = self.requires | {"teacher.logits"}
            self.tasks = ALL_TASKS - {"detection"}

    def setup(self, context: LossContext) -> None:
        """Read the task's kind of classes where the config names none.

        Raises:
            ValueError: For ``samples="right_and_surer"`` or ``"agreement"`` of multi-label stage logits.
        """
        if self.multilabel is None:
            self.multilabel = context.multilabel
        if self.multilabel and self.samples != "all":
            raise ValueError(
                f"CrossStageReviewLoss: samples={self.samples!r} needs one class for each row of stage logits, and "
                "these are multi-label; leave it out"
            )

    def directed_pairs(self, stages: Sequence[int]) -> list[tuple[int, int]]:
        """Return (learner, target) for each term between two of ``stages``, shallow to deep."""
        if self.pairs == "adjacent":
            pairs = list(zip(stages[:-1], stages[1:], strict=True))
        elif self.pairs == "to_final":
            pairs = [(i, stages[-1]) for i in stages[:-1]]
        else:
            pairs = [(i, j) for k, i in enumerate(stages) for j in stages[k + 1 :]]
        down = pairs if self.direction != "shallow_to_deep" else []
        up = [(j, i) for i, j in pairs] if self.direction != "deep_to_shallow" else []
        return [*down, *up]

    def terms(self, student: Observation, teacher: Observation) -> StageTerms:
        """Return the divergence of each pair of stages (``stage2to1``) or, from a mean, of each learning stage."""
        logits = student.stage_logits
        stages = self.stage_numbers(max(logits))
        if len(stages) < 2:
            return StageTerms.none(logits[stages[-1]])
        if self.direction == "ensemble":
            learners = logits.select(stages)
            targets, names = learners.mean(dim=0).expand_as(learners), [f"stage{i}" for i in stages]
        elif self.direction in ("deeper_mean", "deeper_mean_teacher"):
            learners, names = logits.select(stages[:-1]), [f"stage{i}" for i in stages[:-1]]
            targets = self._deeper_mean(logits.select(stages), teacher)
        else:
            pairs = self.directed_pairs(stages)
            learners, targets = (logits.select(side) for side in zip(*pairs, strict=True))
            names = [f"stage{target}to{learner}" for learner, target in pairs]
        targets = targets.detach() if self.detach_target else targets
        if self.samples == "all":
            values = class_divergence(learners, targets, self.temperature, self.multilabel, student.valid_classes)
        else:
            counts = self._counts(learners, targets, student, teacher)
            values = kl_divergence(learners, targets, self.temperature, counts)
        if self.direction == "bidirectional":
            values = 0.5 * values
        return StageTerms(names, values)

    def _deeper_mean(self, logits: Tensor, teacher: Observation) -> Tensor:
        """Return the target of all stages but the last ``(N - 1, B, K)`` of stage logits ``(N, B, K)``."""
        sources = logits
        if self.direction == "deeper_mean_teacher":
            sources = torch.cat([logits, full_precision(teacher.logits)[None]])
        # Row i has an equal share of each source behind stage i.
        shares = logits.new_ones(len(logits) - 1, len(sources)).triu(diagonal=1)
        return torch.tensordot(shares / shares.sum(dim=1, keepdim=True), sources, dims=1)

    def _counts(self, learners: Tensor, targets: Tensor, student: Observation, teacher: Observation) -> Tensor:
        """Return how much each sample counts ``(P, B)``, of the logits of P learners and targets ``(P, B, K)``."""
        shares = targets.softmax(dim=-1)
        if self.samples == "agreement":
            return torch.minimum(shares, full_precision(teacher.logits).softmax(dim=-1)).sum(dim=-1)
        labels = labelled_classes(student.targets, learners.shape[1]).expand(learners.shape[:2])[..., None]
        right = shares.argmax(dim=-1, keepdim=True) == labels
        surer = shares.gather(-1, labels) > learners.softmax(dim=-1).gather(-1, labels)
        return (right & surer)[..., 0].to(learners.dtype)
