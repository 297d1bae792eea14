"""What one forward pass of one network showed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Observation:
    """Everything that a loss may read. Stages count from 1 (shallow) to N (deep).

    Attributes:
        features: Stage outputs as feature maps ``(B, C, H, W)``; a teacher's carry no gradient, and shrink to the mean
            ``(B, C, 1, 1)`` where every loss that reads them declares ``reads_means``.
        adapted: Student only: stage maps after their connector ``(B, C_teacher, H, W)``, for the teacher of the loss.
        stage_logits: Stage logits ``(B, K)`` by stage; the network's own answer stands under the last stage.
        logits: The network's own answer ``(B, K)``; of a detector ``(R, K + 1)`` or ``(B, N, K)``.
        targets: Student only: what its task loss compares with, class indices ``(B,)`` or soft labels ``(B, K)``; in
            detection :class:`kd_mm.tasks.DetectionTargets`.
        embeddings: Student only: what the classifier of each exit reads, pooled features ``(B, D)`` by stage.
        taps: What else a loss asked for, tap text to tensor.
        sample_indices: Student only: position of each sample in the training data, ``(B,)`` int64 on the CPU.
        classifier: Teacher only: makes the network's logits ``(B, K)`` from a map of its last stage; constant weights.
        team: For losses that read all teachers, by teacher: what the student shows for it (``adapted``), and on the
            teacher's side, where nothing else stands, what that teacher shows.
    """

    features: Mapping[int, Tensor] = field(default_factory=dict)
    adapted: Mapping[int, Tensor] = field(default_factory=dict)
    stage_logits: Mapping[int, Tensor] = field(default_factory=dict)
    logits: Tensor | None = None
    targets: Any = None
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    sample_indices: Tensor | None = None
    embeddings: Mapping[int, Tensor] = field(default_factory=dict)
    classifier: Callable[[Tensor], Tensor] | None = None
    team: Mapping[str, Observation] = field(default_factory=dict)
