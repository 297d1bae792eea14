"""ResNets (He et al. 2016), wide ResNets (Zagoruyko and Komodakis 2016) and VGG networks for 32 x 32 images."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from kd_mm.models.backbones.staged_backbone import ConvNorm, StagedBackbone
from kd_mm.registry import MODELS
from kd_mm.utils.suggest import choice


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


CONVS_PER_BLOCK = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
WIDTHS = (64, 128, 256, 512, 512)


def _block(in_channels: int, channels: int, convs: int) -> nn.Sequential:
    return nn.Sequential(*(ConvNorm(in_channels if i == 0 else channels, channels, 3, bias=True) for i in range(convs)))


@MODELS.register_module()
class CIFARVGG(StagedBackbone):
    """VGG-8/11/13/16/19 with batch normalisation, five blocks in four stages of strides 1, 2, 4 and 8.

    A stage is what lies between two poolings: pooling opens ``layer2`` to ``layer4``, and the last two blocks share
    ``layer4`` because the benchmark does not pool between them. Convolutions keep their bias, as there.

    Args:
        depth: 8, 11, 13, 16 or 19.
        in_channels: Channels of the images. Default: 3.
        **kwargs: See :class:`StagedBackbone`.

    Raises:
        ValueError: For another depth.
    """

    def __init__(self, depth: int, in_channels: int = 3, **kwargs: Any) -> None:
        if depth not in CONVS_PER_BLOCK:
            raise ValueError(f"CIFARVGG: depth must be one of {', '.join(map(str, CONVS_PER_BLOCK))}, got {depth}")
        inputs = (in_channels, *WIDTHS[:-1])
        blocks = [_block(*sizes) for sizes in zip(inputs, WIDTHS, CONVS_PER_BLOCK[depth], strict=True)]
        members: list[OrderedDict[str, nn.Module]] = []
        for index, block in enumerate(blocks):
            if index < 4:
                members.append(OrderedDict() if index == 0 else OrderedDict(pool=nn.MaxPool2d(2)))
            members[-1][f"block{index}"] = block
        super().__init__(nn.Identity(), [nn.Sequential(stage) for stage in members], **kwargs)
