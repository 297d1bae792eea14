"""Feature maps before the ReLU, compared where the ReLU passes them (OFD)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.losses.base import Loss, LossContext
from kd_mm.losses.functional import adaptive_average, full_precision
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS
from kd_mm.stages.preactivation import before_relu


@MODELS.register_module()
class OFDLoss(Loss):
    """Compare maps before the ReLU, only where the ReLU lets a difference pass: OFD.

    "A comprehensive overhaul of feature distillation" (Heo et al. 2019, arXiv 1904.01866). With F before the ReLU,
    ``tau = max(F_t, m_c)`` and the stages i = 1..N that are read:

    ``L = sum_i 2^(i - N) mean_b sum_{c,h,w} 1[r(F_s) > tau or tau > 0] (r(F_s) - tau)^2``

    The margin ``m_c`` is the mean of the teacher's negative values: for a batch norm that gives ``N(beta, gamma^2)``,
    ``m = beta - |gamma| phi(beta / gamma) / Phi(-beta / gamma)``, or ``-3 |gamma|`` where values below 0 are rarer than
    0.001. ``r`` is a learned 1x1 convolution without bias and a batch norm. Sums, not means, over channels and
    positions: the weight depends on the size of the maps.

    Public code: ``clovaai/overhaul-distillation``, mdistiller's ``OFD``. Where the ReLU ends a residual sum, the margin
    comes from the last batch norm of the main branch, as there. Where sizes differ the teacher's map is pooled, as in
    mdistiller. The teacher needs a batch norm before a ``nn.ReLU`` at the end of each stage, or right behind it in
    networks with pre-activation. A student's stage without one is read unchanged (our reading).

    Raises:
        ValueError: On construction of the Distiller, for a teacher without such a batch norm.
    """

    frozen_teacher = True
    requires = frozenset({"student.features", "student.taps", "teacher.taps"})

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.connectors = nn.ModuleDict()
        self._student_taps: dict[int, str] = {}
        self._teacher_taps: dict[int, str] = {}

    def extra_taps(self, student: nn.Module, teacher: nn.Module) -> tuple[Sequence[str], Sequence[str]]:
        """Find the values before the ReLUs and the teacher's margins.

        Raises:
            ValueError: If a stage of the teacher does not end in batch norm and ReLU.
        """
        numbers = self.stage_numbers(len(self.matched))
        student_stages, stages = zip(*(self.matched[i - 1] for i in numbers), strict=True)
        found = before_relu(student, student_stages), before_relu(teacher, stages)
        for i, stage, own, target in zip(numbers, stages, *found, strict=True):
            norm = None if target is None else target.norm
            if target is None or norm is None or norm.weight is None or norm.num_features != stage.channels:
                raise ValueError(
                    f"OFDLoss: stage {i} of the teacher ({stage.tap} of {type(teacher).__name__}) ends in no "
                    "batch norm with a ReLU module behind, from which OFD computes its margins; leave the stage out "
                    "(stages=[...]) or take another feature loss, e.g. kd_mm.FitNetsLoss"
                )
            if own is not None:
                self._student_taps[i] = own.tap
            self._teacher_taps[i] = target.tap
            self.register_buffer(f"margin{i}", negative_mean(norm), persistent=False)
        return list(self._student_taps.values()), list(self._teacher_taps.values())

    def setup(self, context: LossContext) -> None:
        for i in self.stage_numbers(len(context.pairs)):
            width, out = (stage.channels for stage in context.pairs[i - 1])
            conv = nn.Conv2d(width, out, 1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            self.connectors[f"stage{i}"] = nn.Sequential(conv, nn.BatchNorm2d(out))

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the distance of each stage, halved for each deeper one that is read."""
        numbers, values = sorted(self._teacher_taps), {}
        for depth, i in zip(reversed(range(len(numbers))), numbers, strict=True):
            tap = self._student_taps.get(i)
            feature = full_precision(student.features[i] if tap is None else student.taps[tap])
            target = full_precision(teacher.taps[self._teacher_taps[i]].detach())
            connected, margin = self.connectors[f"stage{i}"](feature), self.get_buffer(f"margin{i}")
            values[f"stage{i}"] = partial_distance(connected, target, margin) / 2**depth
        return values


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Return the partial squared distance of :class:`OFDLoss`: sum over channels and positions, mean over the batch.

    Args:
        student: ``(B, C, H, W)``, before the ReLU.
        teacher: ``(B, C, H', W')``, before the ReLU; pooled to the student's size.
        margin: ``(C,)``, negative.
    """
    if teacher.shape[2:] != student.shape[2:]:
        teacher = adaptive_average(teacher, student.shape[2:])
    target = torch.maximum(teacher, margin.to(teacher)[None, :, None, None])
    passes = (student > target) | (target > 0)
    return ((student - target).square() * passes).sum() / len(student)


def negative_mean(norm: nn.BatchNorm2d) -> Tensor:
    """Return the margins ``(C,)``: the mean of a normal variable of the norm's mean and deviation below 0."""
    deviation, mean = norm.weight.detach().double().abs(), norm.bias.detach().double()
    # A channel without spread is a constant.
    spread = deviation.clamp(min=1e-12)
    ratio = mean / spread
    share = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    conditional = mean - spread * density / share.clamp(min=1e-3)
    return torch.where(share > 1e-3, conditional, -3 * deviation).float()
