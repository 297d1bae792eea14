"""Stable excitation of multi-granularity distillation (MAS): the mean of the teacher's own and decoded logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_mm.losses.base import ALL_TASKS, LossContext, choice
from kd_mm.losses.cosine import NO_EMBEDDING, embedding_tap, embedding_width
from kd_mm.losses.functional import full_precision, kl_divergence
from kd_mm.losses.kd import LogitsLoss
from kd_mm.losses.mag import BRANCHES, CodeReader
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS


@MODELS.register_module()
class MASLoss(CodeReader, LogitsLoss):
    """Compare the student's logits with the mean of the teacher's three sets of logits: stable excitation (MAS).

    ``L = T^2 KL(softmax(z / T) || softmax(z_s / T))``, ``z = (z_t + D_low(e_t) + D_high(e_t')) / 3``: the teacher's
    own logits and those decoded from its codes (:class:`kd_mm.losses.MAGLoss`). With ``stable_space="prob"`` (our
    reading) the softmaxes are averaged instead of the logits. Source and public code as there; T 4, weight 0.8 beside
    0.2 of the student's own loss, or 1 and 1 beside a loss on features.

    Args:
        temperature: T > 0, dimensionless. Default: 4.
        stable_space: ``"logit"`` or ``"prob"``. Default: ``"logit"``.
        stable_weights: Shares of the teacher's own logits, the low- and the high-dimensional ones; they add up to 1.
            Default: 1/3 each.
        code_dims: See :class:`kd_mm.losses.MAGLoss`.
        code_temperatures: See :class:`kd_mm.losses.MAGLoss`.
        preparation: See :class:`kd_mm.preparation.CodeTraining`; equal options are prepared once.
        teacher_tap: See :class:`kd_mm.losses.MAGLoss`.
        **kwargs: See :class:`kd_mm.losses.kd.LogitsLoss`.

    Raises:
        ValueError: For an unknown space, or weights that are no shares.
    """

    frozen_teacher = True
    requires = frozenset({"student.logits", "teacher.logits", "teacher.taps"})
    instead = NO_EMBEDDING

    def __init__(
        self,
        temperature: float = 4.0,
        stable_space: str = "logit",
        stable_weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3),
        code_dims: Sequence[int] = (64, 256),
        code_temperatures: Sequence[float] = (2.0, 8.0),
        preparation: Mapping[str, Any] | None = None,
        teacher_tap: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.set_up(code_dims, code_temperatures, preparation)
        self.temperature, self.teacher_tap = temperature, teacher_tap or ""
        self.tasks = ALL_TASKS if teacher_tap else ALL_TASKS - {"detection"}
        self.stable_space = choice("stable_space", stable_space, ("logit", "prob"))
        if len(stable_weights) != 3 or min(stable_weights) < 0 or abs(sum(stable_weights) - 1) > 1e-6:
            raise ValueError(f"MASLoss: stable_weights={list(stable_weights)} must be three shares of 1")
        self.stable_weights = tuple(stable_weights)

    def extra_taps(self, student: nn.Module, teacher: nn.Module) -> tuple[Sequence[str], Sequence[str]]:
        """Return the tap of the teacher's feature; see the base class."""
        self.teacher_tap = self.teacher_tap or embedding_tap(teacher, "teacher_tap")
        return (), (self.teacher_tap,)

    def setup(self, context: LossContext) -> None:
        """Measure the teacher's feature; see the base class for further errors.

        Raises:
            ValueError: If it is no embedding ``(B, D)``.
        """
        super().setup(context)
        self.width = embedding_width("MASLoss", self.teacher_tap, context.teacher_taps)

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the divergence under the name ``final``."""
        with torch.no_grad():
            codes = self.teacher_codes()
            decoded = codes.decode(codes.encode(full_precision(teacher.taps[self.teacher_tap])))
        target = self.stable(teacher.logits, [decoded[name] for name in BRANCHES])
        return {"final": kl_divergence(self.compared(student.logits), self.compared(target), self.temperature)}

    def stable(self, logits: Tensor, decoded: Sequence[Tensor]) -> Tensor:
        """Return the weighted mean of three sets of logits ``(B, K)``, as logits."""
        stacked = torch.stack([full_precision(z) for z in (logits, *decoded)])
        weights = stacked.new_tensor(self.stable_weights).view(3, 1, 1)
        if self.stable_space == "logit":
            return (weights * stacked).sum(dim=0)
        log_p = F.log_softmax(stacked / self.temperature, dim=-1)
        return self.temperature * torch.logsumexp(log_p + weights.clamp(min=1e-30).log(), dim=0)
