"""The Loss base: observations in, one scalar out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kd_mm.losses.observation import Observation
from kd_mm.losses.schedules import Progress, Schedule
from kd_mm.registry import SCHEDULES
from kd_mm.stages.stage import Stage


@dataclass(frozen=True)
class LossContext:
    """What a loss is told before training; all of it measured.

    Attributes:
        pairs: The matched (student, teacher) stages of the loss's teacher, stage 1 first; empty without a teacher.
        num_classes: K, where a network says it.
        student_taps: Shapes of what losses tap beside stages and answers, by tap, with a batch of 2.
        teacher_taps: Likewise of the loss's teacher.
        pairs_by_teacher: The matched stages of every teacher, for losses that read all.
        answer: Shape of the student's own answer with a batch of 2, where a loss reads it.
    """

    pairs: Sequence[tuple[Stage, Stage]] = ()
    num_classes: int = 0
    student_taps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    teacher_taps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    pairs_by_teacher: Mapping[str, Sequence[tuple[Stage, Stage]]] = field(default_factory=dict)
    answer: tuple[int, ...] = ()


#: What a loss can read, by side.
READABLE = frozenset(
    {
        *(f"student.{item}" for item in ("features", "adapted", "stage_logits", "embeddings", "logits", "targets")),
        *(f"student.{item}" for item in ("sample_indices", "taps")),
        *(f"teacher.{item}" for item in ("features", "stage_logits", "logits", "classifier", "taps")),
    }
)


class Loss(nn.Module):
    """A distillation loss as a function of what student and teacher showed.

    A subclass says in :attr:`reads` what it looks at, so that nothing else is built or run, and computes its per-stage
    scalars in :meth:`parts`. Weights and schedules live here, never inside the arithmetic.

    Args:
        loss_weight: Factor in the total; 0 means that the loss and whatever only it reads are not built.
        schedule: Config of a schedule (:mod:`kd_mm.losses.schedules`), a factor on top of ``loss_weight``.
        teacher: Name of the teacher that is read; may be left out where there is one.
        stages: Stages that are read, counted from 1; all matched stages by default.
        stage_reduction: ``"sum"`` or ``"mean"`` over the parts.
    """

    #: Subset of :data:`READABLE`.
    requires: ClassVar[frozenset[str]] = frozenset()
    #: Whether it reads all teachers at once; their observations come as ``Observation.team``.
    all_teachers: ClassVar[bool] = False
    #: Whether it prepares something on its teacher that holds only while the teacher stays as it is.
    frozen_teacher: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        unknown = sorted(cls.requires - READABLE)
        if unknown:
            raise ValueError(f"{cls.__name__}.requires: {unknown[0]!r} is none of {', '.join(sorted(READABLE))}")

    def __init__(
        self,
        loss_weight: float = 1.0,
        schedule: dict[str, Any] | None = None,
        teacher: str | None = None,
        stages: Sequence[int] | None = None,
        stage_reduction: str = "sum",
    ) -> None:
        super().__init__()
        self.stage_reduction = choice("stage_reduction", stage_reduction, ("sum", "mean"))
        self.loss_weight = loss_weight
        self.schedule: Schedule | None = SCHEDULES.build({**schedule, "_scope_": "kd_mm"}) if schedule else None
        self.teacher = teacher
        #: Names of the teachers of a loss that reads all; set when it is built.
        self.team: tuple[str, ...] = ()
        self.stages = None if stages is None else tuple(stages)
        #: The matched (student, teacher) stages of its teacher, shallow to deep; known from :meth:`attach` on.
        self.matched: Sequence[tuple[Stage, Stage]] = ()

    def needs(self) -> frozenset[str]:
        """Return what this instance reads; options may make it less than the class reads."""
        return self.requires

    @property
    def needs_teacher(self) -> bool:
        """Whether any part of a teacher's observation is read."""
        return any(item.startswith("teacher.") for item in self.needs()) or "student.adapted" in self.needs()

    @property
    def taught_by(self) -> tuple[str, ...]:
        """Names of the teachers that are read."""
        return self.team or ((self.teacher,) if self.teacher else ())

    def stage_numbers(self, num_stages: int) -> tuple[int, ...]:
        """Return the stages that are read, of ``num_stages`` matched ones.

        Raises:
            ValueError: A stage in the config does not exist.
        """
        chosen = self.stages or tuple(range(1, num_stages + 1))
        wrong = [stage for stage in chosen if not 1 <= stage <= num_stages]
        if wrong:
            raise ValueError(
                f"{type(self).__name__}: stages={list(chosen)}, but the matched stages are 1..{num_stages}"
            )
        return chosen

    def not_for_detectors(self) -> str:
        """Return why a detector cannot use it and what to take instead, for a message; empty where it can."""
        return ""

    def attach(self, student: nn.Module, teacher: nn.Module | None) -> tuple[Sequence[str], Sequence[str]]:
        """Return the taps (:mod:`kd_mm.stages.tap`) of student and teacher that it reads beside stages and answers.

        Called once, before anything runs; asked of losses that read ``student.taps`` or ``teacher.taps``.

        Args:
            student: The network that learns.
            teacher: The loss's teacher, frozen.
        """
        return (), ()

    def watching(self, student: nn.Module) -> AbstractContextManager[Any]:
        """Return a context in which the student computes its own losses, for what no tap shows."""
        return nullcontext()

    def setup(self, context: LossContext) -> None:
        """Build what depends on measured widths; called once, before the optimizer exists. The default has nothing."""

    def expect_samples(self, num_samples: int) -> None:
        """Learn how many samples the training data has, before training and before a checkpoint is loaded."""

    def weight(self, progress: Progress) -> float:
        """Return the weight in force at this point of the run."""
        return self.loss_weight * (self.schedule(progress) if self.schedule else 1.0)

    def terms(self, student: Observation, teacher: Observation | None) -> dict[str, Tensor]:
        """Return the unweighted scalars, by the name of their stage or pair of stages."""
        raise TypeError(f"{type(self).__name__} defines no terms()")

    def evaluate(self, student: Observation, teacher: Observation | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the unweighted loss and its parts, computed outside autocast.

        Args:
            student: What the student showed, with gradient.
            teacher: What the teacher showed, without.
        """
        connected = (view.adapted for view in student.team.values())
        maps = (student.features, student.adapted, student.stage_logits, *connected)
        tensors = [*(t for stages in maps for t in stages.values()), student.logits, *student.taps.values()]
        device = next(tensor for tensor in tensors if tensor is not None).device.type
        with torch.autocast(device, enabled=False):
            parts = self.terms(student, teacher)
            total = torch.stack(list(parts.values())).sum() if len(parts) > 1 else next(iter(parts.values()))
            return total / len(parts) if self.stage_reduction == "mean" else total, parts

    def forward(self, student: Observation, teacher: Observation | None = None) -> Tensor:
        """Return the unweighted loss, a scalar."""
        return self.evaluate(student, teacher)[0]


def choice(option: str, value: str, choices: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ValueError: It is not; the message names the choices.
    """
    if value not in choices:
        raise ValueError(f"{option}={value!r} is unknown; choose one of {', '.join(map(repr, choices))}")
    return value
