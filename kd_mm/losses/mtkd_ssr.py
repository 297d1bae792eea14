"""The losses of MTKD-SSR: stage channels (SCD), stage logits (SRD) and the exits' task loss; see also ``review``."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.base import ALL_TASKS, Loss, LossContext, StageTerms
from kd_mm.losses.dist import relation_distances
from kd_mm.losses.dkd import decoupled_divergence, labelled_classes
from kd_mm.losses.functional import class_divergence, kl_divergence
from kd_mm.losses.kd import LogitsLoss
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS
from kd_mm.utils.suggest import choice


@MODELS.register_module()
class StageChannelLoss(Loss):
    """Compare the pooled channels of each student stage with those of the teacher's stage (SCD).

    ``L_SCD = sum_i mean_{b,c} (GAP(phi_i(F_s^i)) - GAP(F_t^i))^2`` with the connector ``phi_i``: mean over batch and
    channels, sum over stages. MTKD-SSR (Gou et al., IJCV 2023) names channel features at different stages and gives no
    public formula; this one is Channel Distillation's (Zhou et al. 2020, arXiv 2006.01683), which is our reading.

    ``descriptor="gaussian"`` adds ``mean_{b,c} (sigma(phi_i(F_s^i)) - sigma(F_t^i))^2``, sigma being the deviation over
    the positions: together the squared 2-Wasserstein distance of Gaussians of diagonal covariance, mean over the
    channels, after WKD-F (Lv et al., NeurIPS 2024, arXiv 2412.08139). Its use at every stage is our reading.

    Args:
        descriptor: Description of a channel: ``"gap"`` (spatial mean), ``"gap_l2"`` (then L2-normalised over the
            channels), ``"se"`` (then a sigmoid) or ``"gaussian"`` (spatial mean and deviation). Default: ``"gap"``.
        distance: ``"mse"``, ``"l1"`` (both mean over batch and channels) or ``"kl"`` (softmax over the channels).
            Default: ``"mse"``.
        temperature: T of ``"kl"``. Default: 1.
        grid: Whether the connectors run on maps averaged down to the last stage's resolution, which costs less;
            otherwise on the stages' own maps, as always for ``"gaussian"``. Default: True.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For an unknown option, or another distance than ``"mse"`` of Gaussians.
    """

    requires = frozenset({"student.pooled", "teacher.pooled"})
    widths: Tensor
    members: Tensor

    def __init__(
        self,
        descriptor: str = "gap",
        distance: str = "mse",
        temperature: float = 1.0,
        grid: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not grid or descriptor == "gaussian":
            self.requires = self.requires | {"student.adapted"}
        if descriptor == "gaussian":
            self.requires = self.requires | {"student.deviations", "teacher.deviations"}
        self.descriptor = choice("descriptor", descriptor, ("gap", "gap_l2", "se", "gaussian"))
        self.distance = choice("distance", distance, ("mse", "l1", "kl"))
        if descriptor == "gaussian" and distance != "mse":
            raise ValueError(f"StageChannelLoss: descriptor='gaussian' has distance='mse' alone, got {distance!r}")
        self.temperature = temperature
        #: Whether channels of a stage are compared without looking at its other channels: then all stages at once.
        self.by_channel = self.descriptor != "gap_l2" and self.distance != "kl"

    def setup(self, context: LossContext) -> None:
        """Note which channels of all stages side by side belong to which stage."""
        widths = torch.tensor([context.pairs[i - 1][1].channels for i in self.stage_numbers(len(context.pairs))])
        members = F.one_hot(torch.arange(len(widths)).repeat_interleave(widths)).T
        self.register_buffer("widths", widths.float(), persistent=False)
        self.register_buffer("members", members.float(), persistent=False)

    def terms(self, student: Observation, teacher: Observation) -> StageTerms:
        stages = self.stage_numbers(max(student.pooled))
        if not self.by_channel:
            values = [self.compare(student.pooled[i], teacher.pooled[i].detach()).mean() for i in stages]
            return _stage_terms(stages, torch.stack(values))
        distances = self._by_channel(student.pooled, teacher.pooled, stages)
        if self.descriptor == "gaussian":
            distances = distances + self._by_channel(student.deviations, teacher.deviations, stages)
        return _stage_terms(stages, torch.mv(self.members, distances) / self.widths)

    def _by_channel(
        self, student: Mapping[int, Tensor], teacher: Mapping[int, Tensor], stages: Sequence[int]
    ) -> Tensor:
        """Return the distance of each channel of all stages side by side, mean over the batch."""
        own, target = (torch.cat([side[i] for i in stages], dim=1) for side in (student, teacher))
        return self.compare(own, target.detach()).mean(dim=0)

    def describe(self, pooled: Tensor) -> Tensor:
        """Return the channel descriptor ``(B, C)`` of spatial means ``(B, C)``."""
        if self.descriptor == "gap_l2":
            return F.normalize(pooled, dim=1)
        return pooled.sigmoid() if self.descriptor == "se" else pooled

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the distances ``(B, C)`` of the descriptors of two sets of spatial means ``(B, C)``; KL: a scalar."""
        student, teacher = self.describe(student), self.describe(teacher)
        if self.distance == "kl":
            return kl_divergence(student, teacher, self.temperature)
        distance = F.mse_loss if self.distance == "mse" else F.l1_loss
        return distance(student, teacher, reduction="none")


@MODELS.register_module()
class StageResponseLoss(LogitsLoss):
    """Compare the logits of each student stage with the teacher's (SRD).

    ``L_SRD = sum_i beta_i KD_T(z_t^i -> z_s^i)``. MTKD-SSR (Gou et al., IJCV 2023) states distillation of stage logits;
    the formula, weights and temperature are our reading.

    Args:
        temperature: T > 0, dimensionless (our reading: 4 on CIFAR, CUB and re-ID, 1 on ImageNet and in detection).
            Default: 4.
        target: ``"same_stage"`` or ``"final"`` (the teacher's own logits at every student stage, as plain MSKD).
            Default: ``"same_stage"``.
        include_last: Whether the last stage, the deployed classifier, takes part; there it is Hinton's KD. Default:
            True.
        stage_weights: beta, one for each stage that takes part. Default: 1 each.
        form: What compares the logits of two stages. ``"kl"``: KD_T; ``"dkd"``: DKD's decoupled divergences
            (:class:`kd_mm.losses.DKDLoss`); ``"dist"``: DIST's correlations (:class:`kd_mm.losses.DISTLoss`);
            ``"standardized"``: KD_T of standardised logits, the same as ``standardize=True``, which goes with every
            form. Default: ``"kl"``.
        form_weights: Of the two parts of ``"dkd"`` (labelled class, others; default: 1, 8) or ``"dist"`` (within a
            sample, within a class; default: 1, 1).
        multilabel: Use independent sigmoids instead of a softmax. Default: as the task's stage logits are.
        **kwargs: See :class:`kd_mm.losses.kd.LogitsLoss`.

    Raises:
        ValueError: For an unknown option; on construction of the Distiller, for ``"dkd"`` or ``"dist"`` of multi-label
            stage logits; on use, for ``"dkd"`` and targets without a class for each row of logits.
    """

    requires = frozenset({"student.stage_logits", "teacher.stage_logits", "student.valid_classes"})
    exclusive_classes = False
    instead = (
        "target='final' is the teacher's own logits, and a detector classifies boxes, a stage the image; take "
        "target='same_stage' (recipes mskd, mtkd_ssr)"
    )

    def __init__(
        self,
        temperature: float = 4.0,
        target: str = "same_stage",
        include_last: bool = True,
        stage_weights: Sequence[float] | None = None,
        form: str = "kl",
        form_weights: tuple[float, float] | None = None,
        multilabel: bool | None = None,
        **kwargs: Any,
    ) -> None:
        if form == "standardized":
            kwargs["standardize"] = True
        super().__init__(multilabel=multilabel, **kwargs)
        self.temperature, self.include_last = temperature, include_last
        self.target = choice("target", target, ("same_stage", "final"))
        self.stage_weights = stage_weights
        self.form = choice("form", form, ("kl", "dkd", "dist", "standardized"))
        self.form_weights = form_weights or ((1.0, 8.0) if form == "dkd" else (1.0, 1.0))
        if form == "dkd":
            self.requires = self.requires | {"student.targets"}
        if target == "final":
            self.requires = self.requires - {"teacher.stage_logits"} | {"teacher.logits"}
            self.tasks = ALL_TASKS - {"detection"}

    def setup(self, context: LossContext) -> None:
        """Read the task's kind of classes.

        Raises:
            ValueError: For ``form="dkd"`` or ``"dist"`` of multi-label stage logits.
        """
        super().setup(context)
        if self.multilabel and self.form in ("dkd", "dist"):
            raise ValueError(
                f"StageResponseLoss: form={self.form!r} needs classes that exclude each other (softmax), and these "
                "stage logits are multi-label; take form='kl'"
            )

    def stage_numbers(self, num_stages: int) -> tuple[int, ...]:
        stages = super().stage_numbers(num_stages)
        if not self.include_last:
            stages = tuple(stage for stage in stages if stage != num_stages)
        _check_weights(self, self.stage_weights, stages)
        return stages

    def terms(self, student: Observation, teacher: Observation) -> StageTerms:
        # Not by the logits alone: the exit that is left out may not have run.
        stages = self.stage_numbers(len(self.matched) or max(student.stage_logits))
        logits = self.compared(student.stage_logits.select(stages))
        targets = self.compared(teacher.logits if self.target == "final" else teacher.stage_logits.select(stages))
        values = self._divergences(logits, targets.expand_as(logits), student)
        return _stage_terms(stages, values, self.stage_weights)

    def _divergences(self, logits: Tensor, targets: Tensor, student: Observation) -> Tensor:
        """Return the divergence of each stage ``(N,)`` of stage logits ``(N, B, K)``."""
        if self.form == "dkd":
            labels = labelled_classes(student.targets, logits.shape[1])
            parts = decoupled_divergence(logits, targets, labels, self.temperature)
        elif self.form == "dist":
            parts = relation_distances(logits, targets, self.temperature)
        else:
            return class_divergence(logits, targets, self.temperature, self.multilabel, student.valid_classes)
        return self.form_weights[0] * parts[0] + self.form_weights[1] * parts[1]


@MODELS.register_module()
class ExitTaskLoss(Loss):
    """Train the exits with the student's own task loss: ``L_AUX = sum_{i<N} w_i CE(z_s^i, y)``.

    The sum runs over all stages with an exit of their own. The arithmetic is the student's own task loss (label
    smoothing and soft labels included), from :class:`kd_mm.losses.LossContext`; so it is on the scale of the student's
    own loss.

    Args:
        include_last: Whether the network's own classifier counts as an exit, too; with ``student_loss_weight=0`` in the
            recipe, this loss then is the complete task loss of a multi-exit network. Default: False.
        stage_weights: w, one for each stage that takes part. Default: 1 each.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.
    """

    requires = frozenset({"student.stage_logits", "student.targets"})
    exit_outputs = frozenset({"image", "cells"})
    exit_losses: Callable[[Tensor, Any], Tensor]

    def __init__(self, include_last: bool = False, stage_weights: Sequence[float] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.include_last, self.stage_weights = include_last, stage_weights

    def setup(self, context: LossContext) -> None:
        self.exit_losses = context.exit_losses

    def stage_numbers(self, num_stages: int) -> tuple[int, ...]:
        stages = super().stage_numbers(num_stages)
        if not (self.exit_on_last or self.include_last):
            stages = tuple(stage for stage in stages if stage != num_stages)
        _check_weights(self, self.stage_weights, stages)
        return stages

    def terms(self, student: Observation, teacher: Observation) -> StageTerms:
        stages = self.stage_numbers(max(student.stage_logits))
        if not stages:  # a network of one stage, whose exit is its own classifier
            return StageTerms.none(student.stage_logits.stacked)
        values = self.exit_losses(student.stage_logits.select(stages), student.targets)
        return _stage_terms(stages, values, self.stage_weights)


class TeacherExitLoss(ExitTaskLoss):
    """Train a teacher's exits during the distillation with the task loss; no gradient reaches the student.

    The builder of the Distiller adds it where ``teacher_exits["mode"]`` is ``"online"``.
    """

    requires = frozenset({"teacher.exit_logits", "student.targets"})
    trains_student = False

    def terms(self, student: Observation, teacher: Observation) -> StageTerms:
        values = self.exit_losses(teacher.exit_logits.stacked, student.targets)
        return _stage_terms(teacher.exit_logits.numbers, values)


def _stage_terms(stages: Sequence[int], values: Tensor, weights: Sequence[float] | None = None) -> StageTerms:
    """Return one value for each stage, times its weight where the config gives weights."""
    return StageTerms([f"stage{i}" for i in stages], values if weights is None else values * values.new_tensor(weights))


def _check_weights(loss: Loss, weights: Sequence[float] | None, stages: Sequence[int]) -> None:
    if weights is not None and len(weights) != len(stages):
        raise ValueError(f"{type(loss).__name__}: {len(weights)} stage_weights for stages {list(stages)}")
