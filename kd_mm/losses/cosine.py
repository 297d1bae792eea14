"""Embeddings of student and teacher compared, without a common class list."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kd_mm.losses.base import ALL_TASKS, Loss, LossContext
from kd_mm.losses.functional import full_precision
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS
from kd_mm.utils.suggest import choice

NO_EMBEDDING = (
    "it reads one embedding an image, and a detector has none; take a loss on maps (recipes pkd, cwd, fgd) or on the "
    "class logits (recipe kd)"
)


class EmbeddingLoss(Loss):
    """Base of losses on one embedding ``(B, D)`` of each network; a subclass compares them in :meth:`compare`.

    Args:
        student_tap: Where the student's is read (:mod:`kd_mm.stages.tap`). Default: the deployed embedding in
            re-identification (``head.bnneck``), else the input of the head (``head:in[-1]``).
        teacher_tap: Likewise for the teacher.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.
    """

    requires = frozenset({"student.taps", "teacher.taps"})
    instead = NO_EMBEDDING

    def __init__(self, student_tap: str | None = None, teacher_tap: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.student_tap, self.teacher_tap = student_tap or "", teacher_tap or ""
        if not (student_tap and teacher_tap):
            self.tasks = ALL_TASKS - {"detection"}

    def extra_taps(self, student: nn.Module, teacher: nn.Module) -> tuple[Sequence[str], Sequence[str]]:
        """Return both taps; see the base class and :func:`embedding_tap` for errors."""
        self.student_tap = self.student_tap or embedding_tap(student, "student_tap")
        self.teacher_tap = self.teacher_tap or embedding_tap(teacher, "teacher_tap")
        return (self.student_tap,), (self.teacher_tap,)

    def setup(self, context: LossContext) -> None:
        """Measure the embeddings, D_s and D_t; see :func:`embedding_width` for errors."""
        name = type(self).__name__
        self.student_width = embedding_width(name, self.student_tap, context.student_taps)
        self.teacher_width = embedding_width(name, self.teacher_tap, context.teacher_taps)

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        embedding, target = student.taps[self.student_tap], teacher.taps[self.teacher_tap].detach()
        return {"final": self.compare(full_precision(embedding), full_precision(target))}

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of embeddings ``(B, D_s)`` and ``(B, D_t)``, a scalar."""
        raise NotImplementedError


@MODELS.register_module()
class CosineLoss(EmbeddingLoss):
    """Turn the student's embedding towards the teacher's: ``mean_b (1 - cos(W f_s, f_t))``.

    PyTorch's ``CosineEmbeddingLoss`` with target 1. ``W`` is a linear map without bias that is dropped after training.
    By default there is none where the widths agree, so that the student's embeddings can be searched in a gallery of
    the teacher's.

    Args:
        policy: When there is a linear map: ``"on_mismatch"`` of the widths, or ``"always"``. Default:
            ``"on_mismatch"``.
        **kwargs: See :class:`EmbeddingLoss`.
    """

    def __init__(self, policy: str = "on_mismatch", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.policy = choice("policy", policy, ("on_mismatch", "always"))
        self.map: nn.Module = nn.Identity()

    def setup(self, context: LossContext) -> None:
        super().setup(context)
        if self.policy == "always" or self.student_width != self.teacher_width:
            self.map = nn.Linear(self.student_width, self.teacher_width, bias=False)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return one minus the mean cosine, in [0, 2]."""
        return 1 - F.cosine_similarity(self.map(student), teacher, dim=1).mean()


def embedding_tap(network: nn.Module, option: str) -> str:
    """Return the tap of a network's embedding: after the BNNeck of a re-ID head, else the head's input.

    Raises:
        ValueError: If there is no module ``head``; the message names ``option``, which gives a tap.
    """
    names = dict(network.named_modules())
    if "head.bnneck" in names:
        return "head.bnneck"
    if "head" in names:
        return "head:in[-1]"
    raise ValueError(f"{type(network).__name__} has no head whose embedding could be read; give {option}=...")


def embedding_width(loss: str, tap: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the width D of the embedding ``(B, D)`` at a tap, from the measured shapes by tap.

    Raises:
        ValueError: If there is another number of dimensions.
    """
    shape = shapes[tap]
    if len(shape) != 2:
        raise ValueError(
            f"{loss} compares embeddings (B, D), but {tap} gives {tuple(shape)}: name another tap (student_tap, "
            "teacher_tap), e.g. head:in[-1]"
        )
    return shape[1]
