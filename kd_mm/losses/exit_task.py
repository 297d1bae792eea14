"""The exits' own task loss."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from kd_mm.losses.base import Loss
from kd_mm.losses.functional import full_precision
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS


@MODELS.register_module()
class ExitTaskLoss(Loss):
    """``L_AUX = sum_{i<N} w_i CE(z_s^i, y)`` over all stages that have an exit of their own.

    The arithmetic is the student's own task loss (label smoothing and soft labels included), handed in by the task
    through :attr:`task_loss`; so it is on the scale of the student's own loss.

    Args:
        include_last: Whether the network's own answer counts as an exit, too; with ``student_loss_weight=0`` in the
            recipe, this loss then is the whole task loss of a multi-exit network.
        stage_weights: w, one a stage that takes part; all 1 by default.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.
    """

    requires = frozenset({"student.stage_logits", "student.targets"})
    #: Maps exit logits ``(B, K)`` and targets to a scalar; set by the Distiller.
    task_loss: Callable[[Tensor, Tensor], Tensor]
    #: Whether the last stage has an exit of its own beside the network's answer; set by the Distiller.
    exit_on_last: bool = False

    def __init__(self, include_last: bool = False, stage_weights: Sequence[float] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.include_last, self.stage_weights = include_last, stage_weights

    def stage_numbers(self, num_stages: int) -> tuple[int, ...]:
        """Return the stages whose exit is trained; see the base class for errors."""
        stages = super().stage_numbers(num_stages)
        if not (self.exit_on_last or self.include_last):
            stages = tuple(stage for stage in stages if stage != num_stages)
        if self.stage_weights is not None and len(self.stage_weights) != len(stages):
            raise ValueError(f"ExitTaskLoss: {len(self.stage_weights)} stage_weights for stages {list(stages)}")
        return stages

    def terms(self, student: Observation, teacher: Observation | None) -> dict[str, Tensor]:
        """Return the task loss of each exit, times its stage weight."""
        assert student.targets is not None
        stages, parts = self.stage_numbers(max(student.stage_logits)), {}
        for i, weight in zip(stages, self.stage_weights or [1.0] * len(stages), strict=True):
            value = self.task_loss(full_precision(student.stage_logits[i]), student.targets)
            parts[f"stage{i}"] = value if weight == 1.0 else weight * value
        return parts
