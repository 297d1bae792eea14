"""VGG networks for 32 x 32 images (Simonyan and Zisserman, 2015), without the large fully connected layers."""

from collections import OrderedDict
from typing import Any

from torch import nn

from kd_mm.models.backbones.staged_backbone import ConvNorm, StagedBackbone
from kd_mm.registry import MODELS

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
