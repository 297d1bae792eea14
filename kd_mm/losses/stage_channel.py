"""Stage-wise channel distillation (SCD), the feature part of MTKD-SSR."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.base import Loss, choice
from kd_mm.losses.functional import kl_divergence, wide_dtype
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS


class _SpatialMean(torch.autograd.Function):
    """Mean over height and width, ``(B, C, H, W)`` to ``(B, C)``, at least float32.

    A map in half precision is summed up in float32 without a copy of it in float32. The gradient of ``Tensor.mean`` is
    always laid out as if the map were contiguous; behind ``channels_last`` maps that made the backward pass of batch
    norm and ReLU several times slower (on a CPU). This one takes the map's layout.
    """

    @staticmethod
    def forward(ctx: Any, feature: Tensor) -> Tensor:
        ctx.shape, ctx.dtype = feature.shape, feature.dtype
        last = not feature.is_contiguous() and feature.is_contiguous(memory_format=torch.channels_last)
        ctx.memory_format = torch.channels_last if last else torch.contiguous_format
        return feature.mean(dim=(2, 3), dtype=wide_dtype(feature))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        share = (gradient / (ctx.shape[2] * ctx.shape[3])).to(ctx.dtype)[:, :, None, None]
        return share.expand(ctx.shape).contiguous(memory_format=ctx.memory_format)


@MODELS.register_module()
class StageChannelLoss(Loss):
    """The pooled channels of each student stage follow those of the teacher's stage.

    ``L_SCD = sum_i mean_{b,c} (GAP(phi_i(F_s^i)) - GAP(F_t^i))^2`` with the connector ``phi_i``: mean over batch and
    channels, sum over stages. MTKD-SSR (Gou et al., IJCV 2023) names channel features at different stages and gives no
    public formula; this one is Channel Distillation's (Zhou et al. 2020, arXiv 2006.01683), which is our reading.

    Args:
        descriptor: What a channel is described by: ``"gap"`` (spatial mean), ``"gap_l2"`` (then L2-normalised over the
            channels), ``"se"`` (then a sigmoid).
        distance: ``"mse"``, ``"l1"`` (both mean over batch and channels) or ``"kl"`` (softmax over the channels).
        temperature: T of ``"kl"``.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.
    """

    requires = frozenset({"student.adapted", "teacher.features"})

    def __init__(self, descriptor: str = "gap", distance: str = "mse", temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.descriptor = choice("descriptor", descriptor, ("gap", "gap_l2", "se"))
        self.distance = choice("distance", distance, ("mse", "l1", "kl"))
        self.temperature = temperature

    @property
    def reads_means(self) -> bool:
        """Whether only the spatial means of feature maps are read, so that a teacher's maps need not be kept."""
        return type(self) is StageChannelLoss

    def describe(self, feature: Tensor) -> Tensor:
        """Return the channel descriptor ``(B, C)`` of a map ``(B, C, H, W)``, at least float32."""
        pooled = _SpatialMean.apply(feature)
        if self.descriptor == "gap_l2":
            return F.normalize(pooled, dim=1)
        return pooled.sigmoid() if self.descriptor == "se" else pooled

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the distance of two descriptors ``(B, C)``, a scalar."""
        if self.distance == "kl":
            return kl_divergence(student, teacher, self.temperature)
        return F.mse_loss(student, teacher) if self.distance == "mse" else F.l1_loss(student, teacher)

    def terms(self, student: Observation, teacher: Observation | None) -> dict[str, Tensor]:
        """Return the distance of each stage."""
        assert teacher is not None
        return {
            f"stage{i}": self.compare(self.describe(student.adapted[i]), self.describe(teacher.features[i].detach()))
            for i in self.stage_numbers(max(student.adapted))
        }
