"""Each teacher stage compared with all student stages up to it, fused (ReviewKD)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_mm.losses.base import Loss, LossContext
from kd_mm.losses.functional import adaptive_average, full_precision
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS
from kd_mm.stages.preactivation import before_relu
from kd_mm.utils.suggest import choice

_POOLED = "pooled"


@MODELS.register_module()
class ReviewKDLoss(Loss):
    """Compare each teacher stage with the student's stage and all deeper ones, fused by attention: ReviewKD.

    "Distilling knowledge via knowledge review" (Chen et al. 2021, arXiv 2104.09044). From the deepest stage to the
    shallowest the student's map, brought to M channels (1x1 convolution, batch norm), is fused with the result of the
    deeper one, enlarged to its size: ``x = a_1 x + a_2 y`` with two attention maps ``a = sigmoid(conv1x1([x, y]))``.
    The fused map goes to the next stage, and through a 3x3 convolution and batch norm to the teacher's width, where

    ``L = sum_i HCL(F_i, F_t^i)``, ``HCL = sum_l w_l mean (pool_l(F_i) - pool_l(F_t^i))^2 / sum_l w_l``

    over the map itself (w 1) and its averages on 4x4, 2x2 and 1x1 cells (1/2, 1/4, 1/8; levels that are not smaller
    than the map are left out, and each remaining level has the next weight).

    Public code: ``dvlab-research/ReviewKD``, mdistiller's ``ReviewKD``: M is the width of the deepest stage, and the
    teacher's maps are those before the ReLU, the student's those behind it.

    Args:
        teacher_maps: ``"stage"``, or ``"auto"``: before the ReLU where the stage ends in one that can be tapped, else
            the stage. Default: ``"auto"``.
        pooled: Whether the pooled last map is one more stage. It needs two images a process, for its batch norm.
            Default: True.
        max_channels: Limit of M. Default: 512.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For an unknown ``teacher_maps``.
    """

    requires = frozenset({"student.features", "teacher.features", "teacher.taps"})

    def __init__(self, teacher_maps: str = "auto", pooled: bool = True, max_channels: int = 512, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.teacher_maps = choice("teacher_maps", teacher_maps, ("auto", "stage"))
        self.pooled, self.max_channels = pooled, max_channels
        if teacher_maps == "stage":
            self.requires = self.requires - {"teacher.taps"}
        self.blocks = nn.ModuleDict()
        self._teacher_taps: dict[int, str] = {}
        self._numbers: tuple[int, ...] = ()

    def extra_taps(self, student: nn.Module, teacher: nn.Module) -> tuple[Sequence[str], Sequence[str]]:
        """Return the taps of the teacher's maps before the ReLU."""
        if self.teacher_maps == "stage":
            return (), ()
        numbers = self.stage_numbers(len(self.matched))
        stages = [self.matched[i - 1][1] for i in numbers]
        found = zip(numbers, before_relu(teacher, stages), strict=True)
        self._teacher_taps.update({i: place.tap for i, place in found if place is not None})
        return (), list(self._teacher_taps.values())

    def setup(self, context: LossContext) -> None:
        self._numbers = self.stage_numbers(len(context.pairs))
        pairs = [context.pairs[i - 1] for i in self._numbers]
        middle = min(self.max_channels, pairs[-1][0].channels)
        names = [f"stage{i}" for i in self._numbers] + [_POOLED] * self.pooled
        pairs += pairs[-1:] * self.pooled
        for name, (student, teacher) in zip(names, pairs, strict=True):
            self.blocks[name] = AttentionFusion(student.channels, middle, teacher.channels, fuse=name != names[-1])

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        levels = {}
        for i in self._numbers:
            tap = self._teacher_taps.get(i)
            levels[f"stage{i}"] = [student.features[i], teacher.features[i] if tap is None else teacher.taps[tap]]
        if self.pooled:
            maps = (full_precision(side.features[self._numbers[-1]]) for side in (student, teacher))
            levels[_POOLED] = [feature.mean((2, 3), keepdim=True) for feature in maps]
        deeper: Tensor | None = None
        values = {}
        for name, (feature, target) in reversed(levels.items()):
            target = full_precision(target.detach())
            mapped, deeper = self.blocks[name](full_precision(feature), deeper, target.shape[2:])
            values[name] = hierarchical_context(mapped, target)
        return {name: values[name] for name in levels}


class AttentionFusion(nn.Module):
    """Fuse a stage of ``channels`` with the result of the deeper ones, of M (``middle``); see :class:`ReviewKDLoss`."""

    def __init__(self, channels: int, middle: int, out_channels: int, fuse: bool) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(channels, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.expand = nn.Sequential(nn.Conv2d(middle, out_channels, 3, 1, 1, bias=False), nn.BatchNorm2d(out_channels))
        self.attend = nn.Conv2d(2 * middle, 2, 1) if fuse else None
        for block in (self.reduce, self.expand):
            nn.init.kaiming_uniform_(block[0].weight, a=1)  # type: ignore[arg-type]

    def forward(self, feature: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Return the map ``(B, C_t, *size)`` to compare, and the fused one ``(B, M, *size)`` for the next stage."""
        fused = self.reduce(feature)
        if self.attend is not None and deeper is not None:
            deeper = F.interpolate(deeper, fused.shape[2:], mode="nearest")
            shares = self.attend(torch.cat([fused, deeper], dim=1)).sigmoid()
            fused = fused * shares[:, :1] + deeper * shares[:, 1:]
        if fused.shape[2:] != size:
            fused = F.interpolate(fused, size, mode="nearest")
        return self.expand(fused), fused


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the weighted squared distance of two maps ``(B, C, H, W)`` and of their averages, a scalar."""
    total, share, weights = F.mse_loss(student, teacher), 1.0, 1.0
    for cells in (4, 2, 1):
        if cells < student.shape[2]:
            share /= 2
            weights += share
            average, target = (adaptive_average(feature, (cells, cells)) for feature in (student, teacher))
            total = total + share * F.mse_loss(average, target)
    return total / weights
