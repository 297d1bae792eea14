"""What a loss may read of one network in one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kd_mm.losses.functional import adaptive_average, full_precision

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


@dataclass(frozen=True, eq=False)
class StageLogits(Mapping[int, Tensor]):
    """Logits of several stages as one tensor, so that a loss compares all stages in one call.

    It is also a mapping from the number of a stage to its logits ``(B, K)``, or ``(B, K, h, w)`` by cell.

    Attributes:
        numbers: The stages, shallow to deep.
        stacked: ``(N, B, K)``, or ``(N, B, K, h, w)`` by cell, at least float32; row n is stage ``numbers[n]``.
    """

    numbers: tuple[int, ...]
    stacked: Tensor

    @classmethod
    def of(cls, logits: Mapping[int, Tensor]) -> StageLogits:
        """Stack logits ``(B, K)`` by stage, all of one shape, or ``(B, K, h, w)``, brought to the last one's grid."""
        numbers = tuple(sorted(logits))
        each = [logits[i] for i in numbers]
        with torch.autocast(each[0].device.type, enabled=False):
            if any(one.shape[2:] != each[-1].shape[2:] for one in each):
                each = [adaptive_average(full_precision(one), each[-1].shape[2:]) for one in each]
            return cls(numbers, full_precision(torch.stack(each)))

    def select(self, stages: Sequence[int]) -> Tensor:
        """Return the logits of some stages ``(len(stages), B, K)``; a view where they follow each other."""
        rows = [self.numbers.index(stage) for stage in stages]
        first, count = rows[0], len(rows)
        if count == len(self.numbers) and rows == list(range(count)):
            return self.stacked
        if rows == list(range(first, first + count)):
            return self.stacked[first : first + count]
        if rows == [first] * count:
            return self.stacked[first].expand(count, *self.stacked.shape[1:])
        logits = self.stacked.unbind()
        return torch.stack([logits[row] for row in rows])

    def __getitem__(self, stage: int) -> Tensor:
        if stage not in self.numbers:
            raise KeyError(stage)
        return self.stacked[self.numbers.index(stage)]

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


class Connected(NamedTuple):
    """The student's stages after the connectors to one teacher, by number; fields as in :class:`Observation`."""

    adapted: Mapping[int, Tensor] = {}
    pooled: Mapping[int, Tensor] = {}
    deviations: Mapping[int, Tensor] = {}


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
        deviations: Standard deviations over the positions ``(B, C)`` of the same maps
            (:func:`kd_mm.losses.functional.channel_deviations`).
        adapted: Student only: stage maps after the connector to the loss's teacher, ``(B, C_teacher, H, W)``.
        connected: Student only: these three by teacher, for :class:`kd_mm.losses.MultiTeacherLoss`.
        stage_logits: Stage logits, ``None`` without any; the network's own logits are under the last stage, unless it
            has an exit of its own.
        exit_maps: Teacher only: maps ``(B, C, H, W)`` of the stages whose exits are trained during the distillation.
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
    deviations: Mapping[int, Tensor] = field(default_factory=dict)
    adapted: Mapping[int, Tensor] = field(default_factory=dict)
    connected: Mapping[str, Connected] = field(default_factory=dict)
    stage_logits: StageLogits = _NOT_REQUIRED
    exit_maps: Mapping[int, Tensor] = field(default_factory=dict)
    exit_logits: StageLogits = _NOT_REQUIRED
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
        if self.stage_logits is not None:
            return self.stage_logits.stacked.device.type
        by_teacher = (maps for connected in self.connected.values() for maps in connected)
        stages = (self.features, self.adapted, self.pooled, *by_teacher, self.embeddings)
        tensors = [*(tensor for maps in stages for tensor in maps.values()), *self.taps.values(), self.logits]
        return next((tensor.device.type for tensor in tensors if tensor is not None), "cpu")
