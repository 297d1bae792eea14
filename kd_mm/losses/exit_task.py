"""The exits' own task loss."""

from collections.abc import Callable

from torch import Tensor

from kd_mm.losses.base import Loss
from kd_mm.losses.functional import full_precision
from kd_mm.registry import MODELS
from kd_mm.stages.observation import Observation


@MODELS.register_module()
class ExitTaskLoss(Loss):
    """``L_AUX = sum_{i<N} CE(z_s^i, y)`` over all stages that have an exit of their own.

    The arithmetic is the student's own task loss (label smoothing and soft labels included), handed in by the task
    through :attr:`task_loss`; so it is on the scale of the student's own loss.
    """

    reads = frozenset({"student.responses", "student.targets"})
    #: Maps exit logits ``(B, K)`` and targets to a scalar; set by the Distiller.
    task_loss: Callable[[Tensor, Tensor], Tensor]
    #: Whether the last stage has an exit of its own beside the network's answer; set by the Distiller.
    exit_on_last: bool = False

    def stage_numbers(self, num_stages: int) -> tuple[int, ...]:
        """Return the stages whose exit is trained; see the base class for errors."""
        stages = super().stage_numbers(num_stages)
        return stages if self.exit_on_last else tuple(stage for stage in stages if stage != num_stages)

    def parts(self, student: Observation, teacher: Observation | None) -> dict[str, Tensor]:
        """Return the task loss of each exit."""
        assert student.targets is not None
        stages = self.stage_numbers(max(student.responses))
        return {f"stage{i}": self.task_loss(full_precision(student.responses[i]), student.targets) for i in stages}
