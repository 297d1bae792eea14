"""ShuffleNet (v1) for 32 x 32 images, in the form of the RepDistiller benchmark."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.models.backbones.layers import ChannelShuffle, ConvNorm
from kd_mm.models.backbones.staged_backbone import StagedBackbone
from kd_mm.registry import MODELS

STEM_CHANNELS = 24


class ShuffleUnitV1(nn.Module):
    """Grouped 1 x 1, shuffle, depthwise 3 x 3, grouped 1 x 1 (Zhang et al., ShuffleNet, 2018, figure 2).

    At stride 2 the average-pooled input is concatenated instead of added. Unlike the paper the depthwise convolution
    is followed by a ReLU, as in the benchmark.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int) -> None:
        super().__init__()
        branch = channels - in_channels if stride == 2 else channels
        hidden = branch // 4
        # The few channels of the stem are not worth grouping (section 3.2 there).
        first_groups = 1 if in_channels == STEM_CHANNELS else groups
        self.reduce = ConvNorm(in_channels, hidden, 1, groups=first_groups)
        self.shuffle = ChannelShuffle(first_groups)
        self.depthwise = ConvNorm(hidden, hidden, 3, stride, groups=hidden)
        self.expand = ConvNorm(hidden, branch, 1, groups=groups, act=False)
        self.pool = nn.AvgPool2d(3, 2, 1) if stride == 2 else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, channels, H / stride, W / stride)``."""
        out = self.expand(self.depthwise(self.shuffle(self.reduce(x))))
        return self.relu(out + x if self.pool is None else torch.cat((out, self.pool(x)), dim=1))


@MODELS.register_module()
class CIFARShuffleNetV1(StagedBackbone):
    """ShuffleNet with three stages of strides 2, 4 and 8, behind a 1 x 1 stem of stride 1.

    Args:
        widths: Channels of the three stages. Default ``(240, 480, 960)``.
        blocks: Units a stage. Default ``(4, 8, 4)``.
        groups: Groups of the 1 x 1 convolutions. Default 3.
        init_cfg: Default ``None``: torch's own initialisation, as in the benchmark.
        **kwargs: See :class:`StagedBackbone`.
    """

    def __init__(
        self,
        widths: Sequence[int] = (240, 480, 960),
        blocks: Sequence[int] = (4, 8, 4),
        groups: int = 3,
        init_cfg: dict | list[dict] | None = None,
        **kwargs: Any,
    ) -> None:
        inputs = (STEM_CHANNELS, *widths[:-1])
        stages = [
            nn.Sequential(
                ShuffleUnitV1(before, width, 2, groups),
                *(ShuffleUnitV1(width, width, 1, groups) for _ in range(count - 1)),
            )
            for before, width, count in zip(inputs, widths, blocks, strict=True)
        ]
        super().__init__(ConvNorm(3, STEM_CHANNELS, 1), stages, init_cfg=init_cfg, **kwargs)
