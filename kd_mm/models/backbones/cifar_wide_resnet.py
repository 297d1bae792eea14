"""Wide ResNets for 32 x 32 images (Zagoruyko and Komodakis, Wide Residual Networks, 2016)."""

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from kd_mm.models.backbones.staged_backbone import StagedBackbone
from kd_mm.registry import MODELS


class PreActBlock(nn.Module):
    """Normalisation and ReLU ahead of each of two 3 x 3 convolutions.

    Where the width changes, the shortcut is a 1 x 1 convolution of the activated input; elsewhere it is the raw input.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if in_channels != channels else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, channels, H / stride, W / stride)``."""
        active = self.relu(self.bn1(x))
        identity = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(self.relu(self.bn2(self.conv1(active)))) + identity


@MODELS.register_module()
class CIFARWideResNet(StagedBackbone):
    """WRN-``depth``-``widen_factor`` with three stages of strides 1, 2 and 4 and no dropout.

    ``layer1`` and ``layer2`` end before an activation, as everywhere inside a pre-activation network; the last
    normalisation and ReLU are the end of ``layer3``.

    Args:
        depth: ``6n + 4``: n blocks a stage.
        widen_factor: Stage widths are 16, 32 and 64 times this.
        in_channels: Channels of the images. Default: 3.
        **kwargs: See :class:`StagedBackbone`.

    Raises:
        ValueError: For a depth that is not ``6n + 4``.
    """

    def __init__(self, depth: int, widen_factor: int, in_channels: int = 3, **kwargs: Any) -> None:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"CIFARWideResNet: depth must be 6n + 4 (10, 16, 22, 28, 40 ...), got {depth}")
        blocks = (depth - 4) // 6
        widths = [16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        stages: list[OrderedDict[str, nn.Module]] = []
        for i, stride in enumerate((1, 2, 2)):
            first = PreActBlock(widths[i], widths[i + 1], stride)
            rest = [PreActBlock(widths[i + 1], widths[i + 1], 1) for _ in range(blocks - 1)]
            stages.append(OrderedDict((str(j), module) for j, module in enumerate([first, *rest])))
        stages[-1].update(norm=nn.BatchNorm2d(widths[3]), act=nn.ReLU(inplace=True))
        stem = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        super().__init__(stem, [nn.Sequential(stage) for stage in stages], **kwargs)
