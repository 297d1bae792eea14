"""What a teacher answers may be transformed before losses on logits read it: the base of such transforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from kd_mm.losses.schedules import Progress

#: Name of a network's own answer among its answers; stage i, counted from 1, is ``stage<i>``.
FINAL = "final"


@dataclass(frozen=True)
class AnswerSetting:
    """What a transform is told before training; all of it measured.

    Attributes:
        widths: Number of logits of each answer that is transformed, by its name (:data:`FINAL` or ``stage<i>``).
        sigmoids: Names of the answers whose classes are independent sigmoids.
        labelled: Whether there is a class label for each row of logits (not so in detection).
    """

    widths: Mapping[str, int]
    sigmoids: frozenset[str] = frozenset()
    labelled: bool = True


@dataclass(frozen=True)
class Step:
    """What a transform may look at beside the answers.

    Attributes:
        progress: Where the run stands.
        targets: Class indices ``(B,)`` or soft labels ``(B, K)``, where :attr:`ResponseTransform.needs_targets`.
        images: Image index ``(R,)`` of each row, for the answers whose rows are regions of images.
    """

    progress: Progress = field(default_factory=Progress)
    targets: Any = None
    images: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Transformed:
    """What a transform gives.

    Attributes:
        answers: The transformed logits by name, of unchanged shape, at least float32.
        terms: Scalars for the log.
        penalty: A weighted term that trains the transform alone, added to the total, or ``None``.
    """

    answers: Mapping[str, Tensor]
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    penalty: Tensor | None = None


class ResponseTransform(nn.Module):
    """Base: changes a teacher's logits before the losses read them; named in a recipe as ``transform=dict(type=...)``.

    Each teacher has an instance of its own, under ``distill.transform.<teacher>`` in checkpoints. Where it has
    parameters, they are trained with the student by the losses that read it; nothing flows into the teacher.

    Args:
        losses: Names of the losses that read the transformed answers; by default all that read a teacher's answers.
    """

    def __init__(self, losses: Sequence[str] | None = None) -> None:
        super().__init__()
        self.losses = None if losses is None else tuple(losses)
        #: Names of the answers that its losses read; set when it is built.
        self.answers: frozenset[str] = frozenset()

    @property
    def needs_targets(self) -> bool:
        """Whether :attr:`Step.targets` is read."""
        return False

    def serves(self, loss: str) -> bool:
        """Return whether the loss of this name reads the transformed answers."""
        return self.losses is None or loss in self.losses

    def setup(self, context: AnswerSetting) -> None:
        """Build what depends on measured widths; called once, before the optimizer exists. The default has nothing."""

    def forward(self, answers: Mapping[str, Tensor], step: Step) -> Transformed:
        """Return the transformed answers; run outside autocast.

        Args:
            answers: Constant logits by name: ``(B, K)``, of regions ``(R, K)``, of a dense head ``(B, N, K)``.
            step: What else there is.
        """
        raise NotImplementedError

    def watch(self, terms: Mapping[str, float]) -> None:
        """Look at its own terms on a step that is logged, each the mean over the logging interval."""
