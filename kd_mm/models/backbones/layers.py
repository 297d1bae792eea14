"""Layers that several backbones share."""

from torch import Tensor, nn


class ConvNorm(nn.Sequential):
    """Convolution, batch normalisation and, unless switched off, ReLU: ``conv``, ``norm``, ``act``.

    Padding keeps the size at stride 1. The convolution has no bias unless asked for one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        *,
        bias: bool = False,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=bias
        )
        self.norm = nn.BatchNorm2d(out_channels)
        if act:
            self.act = nn.ReLU(inplace=True)


class ChannelShuffle(nn.Module):
    """Interleaves the channels of ``groups`` groups (Zhang et al., ShuffleNet, 2018, section 3.1)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, C, H, W)`` whose channel ``j * groups + g`` is channel ``g * C / groups + j`` of ``x``."""
        batch, channels, height, width = x.shape
        grouped = x.reshape(batch, self.groups, channels // self.groups, height, width)
        return grouped.transpose(1, 2).flatten(1, 2)
