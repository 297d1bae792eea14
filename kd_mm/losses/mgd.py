"""Maps of the teacher generated from masked maps of the student (MGD)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_mm.losses.base import LossContext
from kd_mm.losses.fitnets import FeatureLoss
from kd_mm.losses.functional import same_size
from kd_mm.registry import MODELS
from kd_mm.utils.suggest import choice


@MODELS.register_module()
class MGDLoss(FeatureLoss):
    """Generate the teacher's map from the student's masked map: MGD (Yang et al., ECCV 2022, arXiv 2205.01529).

    ``L_MGD = sum_i |F_t^i - G_i(M_i * F_s^i)|^2 / |F_t^i|^2``: ``M_i`` is one draw of 0 and 1 for each position of each
    image, all channels alike, ``G_i`` two learned 3x3 convolutions with bias and a ReLU between them. Where the widths
    differ, F_s goes through a learned 1x1 convolution with bias first; of maps of different sizes the larger one is
    pooled (our reading).

    Public code: ``yzd-v/MGD``, which sums over positions and channels and divides by B instead, ``reduction="sum"``,
    weight 2e-5 for dense heads (mask 0.65) and 5e-7 for two-stage detectors (0.45). These weights belong to maps of 256
    channels of images of 1333 x 800 pixels and to the size of their values; relative to the teacher's map nothing of
    that matters, which is our reading.

    Args:
        mask_ratio: Share of positions that are masked, 0 to 1. Default: 0.65.
        reduction: ``"relative"`` to the teacher's squares, or ``"sum"`` (divided by B). Default: ``"relative"``.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For a ``mask_ratio`` outside of [0, 1) or an unknown ``reduction``.
    """

    requires = frozenset({"student.features", "teacher.features"})

    def __init__(self, mask_ratio: float = 0.65, reduction: str = "relative", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= mask_ratio < 1:
            raise ValueError(f"MGDLoss: mask_ratio={mask_ratio} is no share of positions; choose 0 or more, below 1")
        self.mask_ratio, self.reduction = mask_ratio, choice("reduction", reduction, ("relative", "sum"))
        self.blocks = nn.ModuleDict()

    def setup(self, context: LossContext) -> None:
        for i in self.stage_numbers(len(context.pairs)):
            width, out = (stage.channels for stage in context.pairs[i - 1])
            generate = nn.Sequential(nn.Conv2d(out, out, 3, padding=1), nn.ReLU(), nn.Conv2d(out, out, 3, padding=1))
            align = nn.Identity() if width == out else nn.Conv2d(width, out, 1)
            self.blocks[f"stage{i}"] = nn.ModuleDict({"align": align, "generate": generate})

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        """Return the distance of two maps ``(B, C, H, W)``, a scalar; the masks are drawn anew in each call."""
        student, teacher = same_size(student, teacher)
        block: Any = self.blocks[f"stage{stage}"]
        kept = torch.rand(len(student), 1, *student.shape[2:], device=student.device) >= self.mask_ratio
        generated = block.generate(block.align(student) * kept)
        squares = F.mse_loss(generated, teacher, reduction="sum")
        if self.reduction == "sum":
            return squares / len(teacher)
        return squares / teacher.square().sum().clamp(min=torch.finfo(teacher.dtype).eps)
