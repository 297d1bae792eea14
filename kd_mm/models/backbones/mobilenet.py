"""MobileNetV2 for 32 x 32 images, as in the RepDistiller benchmark, and MobileNet (v1) for images of 224 pixels."""

from collections import OrderedDict
from typing import Any

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
