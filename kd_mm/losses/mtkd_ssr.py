"""The losses of MTKD-SSR: stage channels (SCD), stage logits (SRD), cross-stage review and the exits' task loss."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.base import ALL_TASKS, Loss, LossContext, choice
from kd_mm.losses.functional import full_precision, kl_divergence, softened, wide_dtype
from kd_mm.losses.kd import LogitsLoss
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS


class _SpatialMean(torch.autograd.Function):
    """Mean over height and width, ``(B, C, H, W)`` to ``(B, C)``, at least float32.

    A map in half precision is summed up in float32 without a copy of it in float32. The gradient of ``Tensor.mean`` is
    always laid out as if the map were contiguous; behind ``channels_last`` maps that made the backward pass of batch
    norm and ReLU several times slower (on a CPU). This one takes the map's layout.
    """

    @staticmethod
    def forward(ctx: Any, feature: Tensor) -> Tensor:
        ctx.shape, ctx.dtype = feature.shape, feature.dtype
        last = not feature.is_contiguous() and feature.is_contiguous(memory_format=torch.channels_last)
        ctx.memory_format = torch.channels_last if last else torch.contiguous_format
        return feature.mean(dim=(2, 3), dtype=wide_dtype(feature))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        share = (gradient / (ctx.shape[2] * ctx.shape[3])).to(ctx.dtype)[:, :, None, None]
        return share.expand(ctx.shape).contiguous(memory_format=ctx.memory_format)


@MODELS.register_module()
class StageChannelLoss(Loss):
    """The pooled channels of each student stage follow those of the teacher's stage.

    ``L_SCD = sum_i mean_{b,c} (GAP(phi_i(F_s^i)) - GAP(F_t^i))^2`` with the connector ``phi_i``: mean over batch and
    channels, sum over stages. MTKD-SSR (Gou et al., IJCV 2023) names channel features at different stages and gives no
    public formula; this one is Channel Distillation's (Zhou et al. 2020, arXiv 2006.01683), which is our reading.

    Args:
        descriptor: What a channel is described by: ``"gap"`` (spatial mean), ``"gap_l2"`` (then L2-normalised over the
            channels), ``"se"`` (then a sigmoid).
        distance: ``"mse"``, ``"l1"`` (both mean over batch and channels) or ``"kl"`` (softmax over the channels).
        temperature: T of ``"kl"``.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.
    """

    requires = frozenset({"student.adapted", "teacher.pooled"})

    def __init__(self, descriptor: str = "gap", distance: str = "mse", temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.descriptor = choice("descriptor", descriptor, ("gap", "gap_l2", "se"))
        self.distance = choice("distance", distance, ("mse", "l1", "kl"))
        self.temperature = temperature

    def describe(self, pooled: Tensor) -> Tensor:
        """Return the channel descriptor ``(B, C)`` of a pooled map ``(B, C)``."""
        if self.descriptor == "gap_l2":
            return F.normalize(pooled, dim=1)
        return pooled.sigmoid() if self.descriptor == "se" else pooled

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the distance of two descriptors ``(B, C)``, a scalar."""
        if self.distance == "kl":
            return kl_divergence(student, teacher, self.temperature)
        return F.mse_loss(student, teacher) if self.distance == "mse" else F.l1_loss(student, teacher)

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the distance of each stage."""
        return {
            f"stage{i}": self.compare(
                self.describe(_SpatialMean.apply(student.adapted[i])), self.describe(teacher.pooled[i].detach())
            )
            for i in self.stage_numbers(max(student.adapted))
        }


@MODELS.register_module()
class StageResponseLoss(LogitsLoss):
    """The logits of each student stage follow the teacher's.

    ``L_SRD = sum_i beta_i KD_T(z_t^i -> z_s^i)``. MTKD-SSR (Gou et al., IJCV 2023) states response distillation at
    different stages; the formula, weights and temperature are our reading.

    Args:
        temperature: T, dimensionless (our reading: 4 on CIFAR, CUB and re-ID, 1 on ImageNet and in detection).
        target: ``"same_stage"`` or ``"final"`` (the teacher's own answer at every student stage, as plain MSKD).
        include_last: Whether the last stage, the deployed answer, takes part; there it is Hinton's KD.
        stage_weights: beta, one a stage that takes part; all 1 by default.
        multilabel: Independent sigmoids instead of a softmax; by default as the task's stage responses are.
        **kwargs: See :class:`kd_mm.losses.kd.LogitsLoss`.
    """

    requires = frozenset({"student.stage_logits", "teacher.stage_logits", "student.valid_classes"})
    instead = (
        "target='final' is the teacher's own answer, and a detector answers for boxes, a stage for the image; take "
        "target='same_stage' (recipes mskd, mtkd_ssr)"
    )

    def __init__(
        self,
        temperature: float = 4.0,
        target: str = "same_stage",
        include_last: bool = True,
        stage_weights: Sequence[float] | None = None,
        multilabel: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(multilabel=multilabel, **kwargs)
        self.temperature, self.include_last = temperature, include_last
        self.target = choice("target", target, ("same_stage", "final"))
        self.stage_weights = stage_weights
        if target == "final":
            self.requires = self.requires - {"teacher.stage_logits"} | {"teacher.logits"}
            self.tasks = ALL_TASKS - {"detection"}

    def stage_numbers(self, num_stages: int) -> tuple[int, ...]:
        """Return the stages that take part; see the base class for errors."""
        stages = super().stage_numbers(num_stages)
        if not self.include_last:
            stages = tuple(stage for stage in stages if stage != num_stages)
        if self.stage_weights is not None and len(self.stage_weights) != len(stages):
            raise ValueError(f"StageResponseLoss: {len(self.stage_weights)} stage_weights for stages {list(stages)}")
        return stages

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the divergence of each stage, times its stage weight."""
        stages = self.stage_numbers(max(student.stage_logits))
        parts, mask = {}, student.valid_classes
        for i, beta in zip(stages, self.stage_weights or [1.0] * len(stages), strict=True):
            target = teacher.logits if self.target == "final" else teacher.stage_logits[i]
            ours, theirs = self.compared(student.stage_logits[i]), self.compared(target)
            value = softened(ours, theirs, self.temperature, self.multilabel, mask)
            parts[f"stage{i}"] = value if beta == 1.0 else beta * value
        return parts


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

    requires = frozenset({"student.stage_logits", "student.valid_classes"})

    def __init__(
        self,
        direction: str = "deep_to_shallow",
        pairs: str = "adjacent",
        detach_target: bool = True,
        temperature: float = 4.0,
        multilabel: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.direction = choice(
            "direction", direction, ("deep_to_shallow", "shallow_to_deep", "bidirectional", "ensemble")
        )
        self.pairs = choice("pairs", pairs, ("adjacent", "to_final", "all_pairs"))
        self.detach_target, self.temperature = detach_target, temperature
        self.multilabel, self._by_task = bool(multilabel), multilabel is None

    def setup(self, context: LossContext) -> None:
        """Take independent sigmoids where the task has them and the config does not say."""
        if self._by_task:
            self.multilabel = context.multilabel

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

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the divergence of each pair of stages (``stage2to1``) or, for the ensemble, of each stage."""
        logits, mask = student.stage_logits, student.valid_classes
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


@MODELS.register_module()
class ExitTaskLoss(Loss):
    """``L_AUX = sum_{i<N} w_i CE(z_s^i, y)`` over all stages that have an exit of their own.

    The arithmetic is the student's own task loss (label smoothing and soft labels included), handed in by the task
    through :class:`kd_mm.losses.LossContext`; so it is on the scale of the student's own loss.

    Args:
        include_last: Whether the network's own answer counts as an exit, too; with ``student_loss_weight=0`` in the
            recipe, this loss then is the whole task loss of a multi-exit network.
        stage_weights: w, one a stage that takes part; all 1 by default.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.
    """

    requires = frozenset({"student.stage_logits", "student.targets"})

    def __init__(self, include_last: bool = False, stage_weights: Sequence[float] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.include_last, self.stage_weights = include_last, stage_weights
        self.task_loss: Callable[[Tensor, Any], Tensor]

    def setup(self, context: LossContext) -> None:
        """Take the student's own task loss."""
        self.task_loss = context.task_loss

    def stage_numbers(self, num_stages: int) -> tuple[int, ...]:
        """Return the stages whose exit is trained; see the base class for errors."""
        stages = super().stage_numbers(num_stages)
        if not (self.exit_on_last or self.include_last):
            stages = tuple(stage for stage in stages if stage != num_stages)
        if self.stage_weights is not None and len(self.stage_weights) != len(stages):
            raise ValueError(f"ExitTaskLoss: {len(self.stage_weights)} stage_weights for stages {list(stages)}")
        return stages

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the task loss of each exit, times its stage weight."""
        stages, parts = self.stage_numbers(max(student.stage_logits)), {}
        for i, weight in zip(stages, self.stage_weights or [1.0] * len(stages), strict=True):
            value = self.task_loss(full_precision(student.stage_logits[i]), student.targets)
            parts[f"stage{i}"] = value if weight == 1.0 else weight * value
        return parts


class TeacherExitLoss(Loss):
    """The task loss of a teacher's exits that are trained during the distillation; no gradient reaches the student.

    The builder of the Distiller adds it where ``teacher_exits["mode"]`` is ``"online"``.
    """

    requires = frozenset({"teacher.exit_logits", "student.targets"})
    trains_student = False

    def setup(self, context: LossContext) -> None:
        """Take the student's own task loss."""
        self.task_loss = context.task_loss

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the task loss of each exit."""
        return {
            f"stage{i}": self.task_loss(full_precision(logits), student.targets)
            for i, logits in teacher.exit_logits.items()
        }
