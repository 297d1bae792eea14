"""ShuffleNetV2 for 32 x 32 images, in the form of the RepDistiller benchmark."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.models.backbones.layers import ChannelShuffle, ConvNorm
from kd_mm.models.backbones.staged_backbone import StagedBackbone
from kd_mm.registry import MODELS

STEM_CHANNELS = 24


def _branch(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNorm(in_channels, channels, 1),
        ConvNorm(channels, channels, 3, stride, groups=channels, act=False),
        ConvNorm(channels, channels, 1),
    )


class ShuffleUnitV2(nn.Module):
    """Half of the channels passes by, half goes through the branch (Ma et al., ShuffleNet V2, 2018, figure 3c)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = _branch(channels // 2, channels // 2, 1)
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to the same shape."""
        kept, worked = x.chunk(2, dim=1)
        return self.shuffle(torch.cat((kept, self.branch(worked)), dim=1))


class ShuffleDownV2(nn.Module):
    """Both halves go through a branch of stride 2 (figure 3d there)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.short_branch = nn.Sequential(
            ConvNorm(in_channels, in_channels, 3, 2, groups=in_channels, act=False),
            ConvNorm(in_channels, half, 1),
        )
        self.branch = _branch(in_channels, half, 2)
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, channels, H / 2, W / 2)``."""
        return self.shuffle(torch.cat((self.short_branch(x), self.branch(x)), dim=1))


@MODELS.register_module()
class CIFARShuffleNetV2(StagedBackbone):
    """ShuffleNetV2 with three stages of strides 2, 4 and 8, behind a 1 x 1 stem of stride 1.

    A stage has one unit of stride 2 and then ``blocks`` units of stride 1. The last 1 x 1 convolution is the end of
    ``layer3``.

    Args:
        widths: Channels of the three stages and of the last convolution. Default ``(116, 232, 464, 1024)``: x1.
        blocks: Units of stride 1 in each stage. Default ``(3, 7, 3)``.
        init_cfg: Default ``None``: torch's own initialisation, as in the benchmark.
        **kwargs: See :class:`StagedBackbone`.
    """

    def __init__(
        self,
        widths: Sequence[int] = (116, 232, 464, 1024),
        blocks: Sequence[int] = (3, 7, 3),
        init_cfg: dict | list[dict] | None = None,
        **kwargs: Any,
    ) -> None:
        inputs = (STEM_CHANNELS, *widths[:2])
        stages = [
            nn.Sequential(ShuffleDownV2(before, width), *(ShuffleUnitV2(width) for _ in range(count)))
            for before, width, count in zip(inputs, widths[:3], blocks, strict=True)
        ]
        stages[-1].add_module("head", ConvNorm(widths[2], widths[3], 1))
        super().__init__(ConvNorm(3, STEM_CHANNELS, 1), stages, init_cfg=init_cfg, **kwargs)
