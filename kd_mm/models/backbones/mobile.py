"""MobileNet (v1) for images of 224 pixels; MobileNetV2 and ShuffleNets for 32 x 32 images, as RepDistiller has them."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.models.backbones.staged_backbone import ConvNorm, StagedBackbone
from kd_mm.registry import MODELS

# One tuple a group of blocks: stage, channels at width 1, blocks, stride of the first block.
GROUPS = ((0, 16, 1, 1), (0, 24, 2, 1), (1, 32, 3, 2), (2, 64, 4, 2), (2, 96, 3, 1), (3, 160, 3, 2), (3, 320, 1, 1))
HEAD_CHANNELS = 1280
# MobileNet's widths of separable convolutions by stage; the first of each stage but the first has stride 2.
V1_WIDTHS = ((64,), (128, 128), (256, 256), (512,) * 6, (1024, 1024))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project without activation (Sandler et al., MobileNetV2, 2018, section 3.3).

    The expanding convolution is there at ``expansion=1`` too, as in the benchmark.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = ConvNorm(in_channels, hidden, 1)
        self.depthwise = ConvNorm(hidden, hidden, 3, stride, groups=hidden)
        self.project = ConvNorm(hidden, channels, 1, act=False)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, channels, H / stride, W / stride)``."""
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


@MODELS.register_module()
class CIFARMobileNetV2(StagedBackbone):
    """MobileNetV2 with four stages of strides 2, 4, 8 and 16 (16, 8, 4 and 2 cells for 32 pixels).

    Against the ImageNet form the second group has stride 1. ``layer1`` to ``layer3`` end in a linear bottleneck, so
    their outputs may be negative; the 1280-channel convolution is the end of ``layer4``.

    Args:
        width: Multiplies all widths but the last. Default 0.5, the benchmark's "MobileNetV2".
        expansion: Expansion of all groups but the first, which has 1. Default 6.
        in_channels: Channels of the images. Default: 3.
        **kwargs: See :class:`StagedBackbone`.
    """

    def __init__(self, width: float = 0.5, expansion: int = 6, in_channels: int = 3, **kwargs: Any) -> None:
        channels = int(32 * width)
        stem = ConvNorm(in_channels, channels, 3, 2)
        stages: list[OrderedDict[str, nn.Module]] = [OrderedDict() for _ in range(4)]
        for index, (stage, base, blocks, stride) in enumerate(GROUPS):
            group = nn.Sequential()
            for i in range(blocks):
                out = int(base * width)
                group.append(InvertedResidual(channels, out, stride if i == 0 else 1, 1 if index == 0 else expansion))
                channels = out
            stages[stage][f"group{index}"] = group
        stages[-1]["head"] = ConvNorm(channels, max(HEAD_CHANNELS, int(HEAD_CHANNELS * width)), 1)
        super().__init__(stem, [nn.Sequential(stage) for stage in stages], **kwargs)


@MODELS.register_module()
class MobileNetV1(StagedBackbone):
    """MobileNet with five stages of strides 2, 4, 8, 16 and 32 (Howard et al., 2017, table 1).

    Args:
        width: Multiplies all widths. Default 1.
        in_channels: Channels of the images. Default: 3.
        **kwargs: See :class:`StagedBackbone`.
    """

    img_size = 224

    def __init__(self, width: float = 1.0, in_channels: int = 3, **kwargs: Any) -> None:
        channels = int(32 * width)
        stem = ConvNorm(in_channels, channels, 3, 2)
        stages = []
        for number, stage_widths in enumerate(V1_WIDTHS):
            stage = nn.Sequential()
            for i, base in enumerate(stage_widths):
                stride = 2 if i == 0 and number > 0 else 1
                stage.append(ConvNorm(channels, channels, 3, stride, groups=channels))
                stage.append(ConvNorm(channels, int(base * width), 1))
                channels = int(base * width)
            stages.append(stage)
        super().__init__(stem, stages, **kwargs)


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
        self.shuffle = nn.ChannelShuffle(first_groups)
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
        in_channels: Channels of the images. Default: 3.
        **kwargs: See :class:`StagedBackbone`.
    """

    def __init__(
        self,
        widths: Sequence[int] = (240, 480, 960),
        blocks: Sequence[int] = (4, 8, 4),
        groups: int = 3,
        init_cfg: dict | list[dict] | None = None,
        in_channels: int = 3,
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
        super().__init__(ConvNorm(in_channels, STEM_CHANNELS, 1), stages, init_cfg=init_cfg, **kwargs)


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
        self.shuffle = nn.ChannelShuffle(2)

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
        self.shuffle = nn.ChannelShuffle(2)

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
        in_channels: Channels of the images. Default: 3.
        **kwargs: See :class:`StagedBackbone`.
    """

    def __init__(
        self,
        widths: Sequence[int] = (116, 232, 464, 1024),
        blocks: Sequence[int] = (3, 7, 3),
        init_cfg: dict | list[dict] | None = None,
        in_channels: int = 3,
        **kwargs: Any,
    ) -> None:
        inputs = (STEM_CHANNELS, *widths[:2])
        stages = [
            nn.Sequential(ShuffleDownV2(before, width), *(ShuffleUnitV2(width) for _ in range(count)))
            for before, width, count in zip(inputs, widths[:3], blocks, strict=True)
        ]
        stages[-1].add_module("head", ConvNorm(widths[2], widths[3], 1))
        super().__init__(ConvNorm(in_channels, STEM_CHANNELS, 1), stages, init_cfg=init_cfg, **kwargs)
