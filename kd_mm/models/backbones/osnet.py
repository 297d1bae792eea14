"""OSNet, the network made for re-identification."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn

from kd_mm.models.backbones.staged_backbone import ConvNorm, StagedBackbone
from kd_mm.registry import MODELS

# Of the stem and of the three stages, at width 1.
CHANNELS = (64, 256, 384, 512)


class LiteConv(nn.Sequential):
    """Lite 3 x 3: a linear 1 x 1 convolution, then a depthwise 3 x 3 (Zhou et al. 2019, section 3.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)


class AggregationGate(nn.Sequential):
    """A weight in (0, 1) for each channel ``(B, C, 1, 1)`` from the mean over the map (section 3.2)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)
        self.sigmoid = nn.Sigmoid()


class OmniScaleBlock(nn.Module):
    """Streams of one to T lite convolutions, each through the gate that they share, summed, beside a shortcut."""

    def __init__(self, in_channels: int, channels: int, streams: int, reduction: int, gate_reduction: int) -> None:
        super().__init__()
        hidden = channels // reduction
        self.reduce = ConvNorm(in_channels, hidden, 1)
        self.streams = nn.ModuleList(
            nn.Sequential(*(LiteConv(hidden) for _ in range(length))) for length in range(1, streams + 1)
        )
        self.gate = AggregationGate(hidden, gate_reduction)
        self.expand = ConvNorm(hidden, channels, 1, act=False)
        same = in_channels == channels
        self.shortcut = nn.Identity() if same else ConvNorm(in_channels, channels, 1, act=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, channels, H, W)``."""
        reduced = self.reduce(x)
        scales = [stream(reduced) for stream in self.streams]
        out = sum(self.gate(scale) * scale for scale in scales)
        return self.relu(self.expand(out) + self.shortcut(x))


@MODELS.register_module()
class OSNet(StagedBackbone):
    """Omni-scale network (Zhou et al., ICCV 2019, arXiv 1905.00953) with three stages of strides 4, 8 and 16.

    A stage ends in a 1 x 1 convolution, the last one too; the average pooling between stages opens the next one. The
    paper's fully connected layer behind the pooling is a neck (``mmpretrain.LinearNeck``): see
    ``configs/_base_/models/osnet.py``, with which the network has the paper's 2.2 M parameters. The last stride is 16
    as published: do not take it out (``last_stride=None``).

    Args:
        width: Multiplies all widths: 1 (default), 0.75, 0.5 or 0.25 in the paper.
        blocks: Blocks of each stage.
        streams: T, the number of scales.
        reduction: Channels of a block over those within it.
        gate_reduction: Channels of the gate's input over those of its hidden layer.
        in_channels: Channels of the images. Default: 3.
        **kwargs: See :class:`StagedBackbone`.
    """

    img_size: ClassVar[int] = 256

    def __init__(
        self,
        width: float = 1.0,
        blocks: Sequence[int] = (2, 2, 2),
        streams: int = 4,
        reduction: int = 4,
        gate_reduction: int = 16,
        in_channels: int = 3,
        **kwargs: Any,
    ) -> None:
        channels = [int(width * base) for base in CHANNELS]
        stem = nn.Sequential(OrderedDict(conv=ConvNorm(in_channels, channels[0], 7, 2), pool=nn.MaxPool2d(3, 2, 1)))
        stages: list[nn.Module] = []
        for (before, after), count in zip(pairwise(channels), blocks, strict=True):
            stage: OrderedDict[str, nn.Module] = OrderedDict()
            if stages:
                stage["pool"] = nn.AvgPool2d(2)
            for index in range(count):
                inputs = after if index else before
                stage[f"block{index}"] = OmniScaleBlock(inputs, after, streams, reduction, gate_reduction)
            stage["mix"] = ConvNorm(after, after, 1)
            stages.append(nn.Sequential(stage))
        super().__init__(stem, stages, **kwargs)
