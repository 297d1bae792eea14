"""ResNets for 32 x 32 images (He et al., Deep Residual Learning, 2016, section 4.2)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from kd_mm.losses.base import choice
from kd_mm.models.backbones.staged_backbone import ConvNorm, StagedBackbone
from kd_mm.registry import MODELS


class PadShortcut(nn.Module):
    """Parameter-free shortcut: every second pixel, new channels filled with zeros on both sides ("option A")."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.before = new_channels // 2
        self.after = new_channels - self.before
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C + new_channels, H / stride, W / stride)``."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut, ReLU after the addition."""

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = (
                PadShortcut(channels - in_channels, stride)
                if shortcut == "pad"
                else ConvNorm(in_channels, channels, 1, stride, act=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, channels, H / stride, W / stride)``."""
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


@MODELS.register_module()
class CIFARResNet(StagedBackbone):
    """ResNet-8/14/20/32/44/56/110 and their wide "x4" forms, with three stages of strides 1, 2 and 4.

    Args:
        depth: ``6n + 2``: n blocks a stage.
        widths: Channels of the stem and of the three stages. Default ``(16, 16, 32, 64)``; the "x4" networks of the
            RepDistiller benchmark have ``(32, 64, 128, 256)``.
        shortcut: ``"conv"`` (default) projects with a 1 x 1 convolution and batch normalisation where shapes change
            ("option B", the RepDistiller benchmark), ``"pad"`` pads with zeros ("option A", the original CIFAR-10
            networks).
        in_channels: Channels of the images. Default: 3.
        **kwargs: See :class:`StagedBackbone`.

    Raises:
        ValueError: For a depth that is not ``6n + 2``, an unknown shortcut or widths that are not four.
    """

    def __init__(
        self,
        depth: int,
        widths: Sequence[int] = (16, 16, 32, 64),
        shortcut: str = "conv",
        in_channels: int = 3,
        **kwargs: Any,
    ) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"CIFARResNet: depth must be 6n + 2 (8, 14, 20, 32, 44, 56, 110 ...), got {depth}")
        choice("CIFARResNet: shortcut", shortcut, ("conv", "pad"))
        if len(widths) != 4:
            raise ValueError(f"CIFARResNet: widths must be four, of the stem and of three stages, got {widths}")
        blocks = (depth - 2) // 6
        stages = [
            nn.Sequential(
                BasicBlock(widths[i], widths[i + 1], stride, shortcut),
                *(BasicBlock(widths[i + 1], widths[i + 1], 1, shortcut) for _ in range(blocks - 1)),
            )
            for i, stride in enumerate((1, 2, 2))
        ]
        super().__init__(ConvNorm(in_channels, widths[0], 3), stages, **kwargs)
