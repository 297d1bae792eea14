"""What a loss may read of one network in one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

# Fields are typed as what ``requires`` promises; one that no loss requires is None or empty.
_NOT_REQUIRED: Any = None


@dataclass(frozen=True)
class DenseAssignment:
    """Which positions of a dense detection head the student's own targets count.

    Attributes:
        counted: ``(B, N)``, 0 where a position is ignored, else 1.
        positive: ``(B, N)``, whether a position belongs to an object.
        normalizer: What a sum over positions is divided by.
    """

    counted: Tensor
    positive: Tensor
    normalizer: Tensor | float


@dataclass(frozen=True)
class Observation:
    """The recorded tensors of one forward pass of one network. Stages count from 1 (shallow) to N (deep).

    A field is filled where a loss names it in ``requires``, else it is empty; a loss without a teacher gets an empty
    observation for it. Tensors of a teacher carry no gradient into it.

    Attributes:
        features: Stage outputs as feature maps ``(B, C, H, W)``.
        pooled: Spatial means ``(B, C)``, at least float32: of a teacher's stage outputs; of the student's stages after
            the connector to the loss's teacher, which runs on a map averaged down to the last stage's resolution
            where no loss reads it as ``adapted``.
        adapted: Student only: stage maps after the connector to the loss's teacher, ``(B, C_teacher, H, W)``.
        adapted_by_teacher: Student only: the same by teacher, for :class:`kd_mm.losses.MultiTeacherLoss`.
        pooled_by_teacher: Student only: likewise.
        stage_logits: Stage logits ``(B, K)`` by stage; the network's own logits are under the last stage, unless it has
            an exit of its own.
        exit_logits: Teacher only: logits of exits that are trained during the distillation, with gradient into them.
        embeddings: Student only: pooled features ``(B, D)`` that the classifier of each exit reads, by stage.
        logits: The network's own logits ``(B, K)``; of a detector ``(R, K + 1)`` or ``(B, N, K)``.
        classifier: Teacher only: maps its last stage's map to its logits ``(B, K)``; constant weights.
        targets: Student only: what its task loss compares with, class indices ``(B,)`` or soft labels ``(B, K)``; in
            detection :class:`kd_mm.tasks.DetectionTargets`.
        valid_classes: Student only: ``(B, K)``, 0 where a class does not count in an image, else 1; ``None``: all do.
        assignment: Student only: targets of its dense detection head, where the head assigns any of a known form.
        sample_indices: Student only: position of each sample in the training data, ``(B,)`` int64 on the CPU.
        taps: What else a loss reads (:meth:`kd_mm.losses.Loss.extra_taps`), tap text to tensor.
    """

    features: Mapping[int, Tensor] = field(default_factory=dict)
    pooled: Mapping[int, Tensor] = field(default_factory=dict)
    adapted: Mapping[int, Tensor] = field(default_factory=dict)
    adapted_by_teacher: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict)
    pooled_by_teacher: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict)
    stage_logits: Mapping[int, Tensor] = field(default_factory=dict)
    exit_logits: Mapping[int, Tensor] = field(default_factory=dict)
    embeddings: Mapping[int, Tensor] = field(default_factory=dict)
    logits: Tensor = _NOT_REQUIRED
    classifier: Callable[[Tensor], Tensor] = _NOT_REQUIRED
    targets: Any = None
    valid_classes: Tensor | None = None
    assignment: DenseAssignment | None = None
    sample_indices: Tensor = _NOT_REQUIRED
    taps: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def device_type(self) -> str:
        """Type of the device of its tensors, ``"cpu"`` where it has none."""
        by_teacher = (*self.adapted_by_teacher.values(), *self.pooled_by_teacher.values())
        stages = (self.features, self.stage_logits, self.adapted, self.pooled, *by_teacher, self.embeddings)
        tensors = [*(tensor for maps in stages for tensor in maps.values()), *self.taps.values(), self.logits]
        return next((tensor.device.type for tensor in tensors if tensor is not None), "cpu")
