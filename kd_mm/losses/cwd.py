"""Channels compared as distributions over positions (CWD)."""

from typing import Any

from torch import Tensor

from kd_mm.losses.base import LossContext
from kd_mm.losses.fitnets import FeatureLoss
from kd_mm.losses.functional import kl_divergence, same_size
from kd_mm.registry import MODELS


@MODELS.register_module()
class CWDLoss(FeatureLoss):
    """Compare each channel as a distribution over positions: CWD (Shu et al. 2021, arXiv 2011.13256).

    ``L_CWD = sum_i tau^2 / (B C) sum_{b,c} KL(softmax_hw(F_t^i / tau) || softmax_hw(F_s^i / tau))``: sum over
    positions, mean over batch and channels. Public code: MMRazor's ``ChannelWiseDivergence``, without a connector.

    Args:
        temperature: tau > 0, in units of the feature map. Default: 1.
        resize: Whether maps of different sizes are compared at the smaller one (adaptive average). Default: False.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For maps of different sizes, without ``resize``.
    """

    def __init__(self, temperature: float = 1.0, resize: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature, self.resize = temperature, resize

    def setup(self, context: LossContext) -> None:
        """Check before training that each pair of maps has one size."""
        for i in self.stage_numbers(len(context.pairs)):
            student, teacher = ((stage.height, stage.width) for stage in context.pairs[i - 1])
            if student != teacher and not self.resize:
                raise ValueError(_different_sizes(i, student, teacher))

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        """Return the divergence of two maps ``(B, C, H, W)`` of equal C, a scalar; see the class for errors."""
        if self.resize:
            student, teacher = same_size(student, teacher)
        if student.shape != teacher.shape:
            raise ValueError(_different_sizes(stage, tuple(student.shape), tuple(teacher.shape)))
        return kl_divergence(student.flatten(2), teacher.flatten(2), self.temperature).mean()


def _different_sizes(stage: int, student: tuple[int, ...], teacher: tuple[int, ...]) -> str:
    return (
        f"CWDLoss: stage {stage} has maps {student} (student) and {teacher} (teacher); pair stages of equal "
        "stride, e.g. levels of the necks, or set resize=True"
    )
