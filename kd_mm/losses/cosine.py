"""Embeddings of student and teacher compared; they need no common class list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kd_mm.losses.base import ALL_TASKS, Loss, LossContext, choice
from kd_mm.losses.functional import full_precision
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS

NO_EMBEDDING = (
    "it reads one embedding an image, and a detector has none; take a loss on maps (recipes pkd, cwd, fgd) or on the "
    "class answer (recipe kd)"
)


class EmbeddingLoss(Loss):
    """Base of losses on one embedding ``(B, D)`` of each network; a subclass compares them in :meth:`compare`.

    Args:
        student_tap: Where the student's is read (:mod:`kd_mm.stages.tap`). Default: what is deployed for
            re-identification (``head.bnneck``), else what the head takes in (``head:in[-1]``).
        teacher_tap: Likewise.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.
    """

    requires = frozenset({"student.taps", "teacher.taps"})
    instead = NO_EMBEDDING

    def __init__(self, student_tap: str | None = None, teacher_tap: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.student_tap, self.teacher_tap = student_tap, teacher_tap
        self.tasks = ALL_TASKS if student_tap and teacher_tap else ALL_TASKS - {"detection"}

    def extra_taps(self, student: nn.Module, teacher: nn.Module | None) -> tuple[Sequence[str], Sequence[str]]:
        """Settle both taps; see the base class.

        Raises:
            ValueError: A network has no head and its tap is not given.
        """
        self.student_tap = self.student_tap or _embedding_tap(student, "student_tap")
        self.teacher_tap = self.teacher_tap or _embedding_tap(teacher, "teacher_tap")
        return (self.student_tap,), (self.teacher_tap,)

    def setup(self, context: LossContext) -> None:
        """Look at the measured embeddings.

        Raises:
            ValueError: One is no embedding ``(B, D)``.
        """
        for tap, shape in (self._measured(context.student_taps, 0), self._measured(context.teacher_taps, 1)):
            if len(shape) != 2:
                raise ValueError(
                    f"{type(self).__name__} compares embeddings (B, D), but {tap} gives {tuple(shape)}: name another "
                    "tap (student_tap, teacher_tap), e.g. head:in[-1]"
                )

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the loss under the name ``final``."""
        assert self.student_tap is not None
        assert self.teacher_tap is not None
        ours, theirs = student.taps[self.student_tap], teacher.taps[self.teacher_tap]
        return {"final": self.compare(full_precision(ours), full_precision(theirs.detach()))}

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of embeddings ``(B, D_s)`` and ``(B, D_t)``, a scalar."""
        raise NotImplementedError

    def _measured(self, shapes: Any, side: int) -> tuple[str, Sequence[int]]:
        tap = (self.student_tap, self.teacher_tap)[side]
        assert tap is not None
        return tap, shapes[tap]


@MODELS.register_module()
class CosineLoss(EmbeddingLoss):
    """The student's embedding points where the teacher's does: ``mean_b (1 - cos(W f_s, f_t))``.

    PyTorch's ``CosineLoss`` with target 1. ``W`` is a linear map without bias that is thrown away after
    training. Where the widths agree there is none by default, so that the student's embeddings can be searched for in a
    gallery of the teacher's.

    Args:
        policy: When there is a linear map: ``"on_mismatch"`` of the widths, or ``"always"``.
        **kwargs: See :class:`EmbeddingLoss`.
    """

    def __init__(self, policy: str = "on_mismatch", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.policy = choice("policy", policy, ("on_mismatch", "always"))
        self.map: nn.Module = nn.Identity()

    def setup(self, context: LossContext) -> None:
        """Build the linear map; see the base class for errors."""
        super().setup(context)
        (_, (_, own)), (_, (_, theirs)) = (
            self._measured(context.student_taps, 0),
            self._measured(context.teacher_taps, 1),
        )
        if self.policy == "always" or own != theirs:
            self.map = nn.Linear(own, theirs, bias=False)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return one minus the mean cosine, in [0, 2]."""
        return 1 - F.cosine_similarity(self.map(student), teacher, dim=1).mean()


def _embedding_tap(network: nn.Module | None, option: str) -> str:
    head = getattr(network, "head", None)
    if isinstance(getattr(head, "bnneck", None), nn.Module):
        return "head.bnneck"
    if isinstance(head, nn.Module):
        return "head:in[-1]"
    raise ValueError(f"{type(network).__name__} has no head whose embedding could be read; give {option}=...")
