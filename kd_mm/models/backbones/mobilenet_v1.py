"""MobileNet (v1) for 224 x 224 images: the ImageNet student of the distillation literature; upstream has v2 and v3."""

from typing import Any

from torch import nn

from kd_mm.models.backbones.layers import ConvNorm
from kd_mm.models.backbones.staged_backbone import StagedBackbone
from kd_mm.registry import MODELS

# Output widths of the separable convolutions, stage by stage; the first of each stage but the first has stride 2.
WIDTHS = ((64,), (128, 128), (256, 256), (512,) * 6, (1024, 1024))


@MODELS.register_module()
class MobileNetV1(StagedBackbone):
    """MobileNet with five stages of strides 2, 4, 8, 16 and 32 (Howard et al., 2017, table 1).

    Args:
        width: Multiplies all widths. Default 1.
        **kwargs: See :class:`StagedBackbone`.
    """

    img_size = 224

    def __init__(self, width: float = 1.0, **kwargs: Any) -> None:
        channels = int(32 * width)
        stem = ConvNorm(3, channels, 3, 2)
        stages = []
        for number, stage_widths in enumerate(WIDTHS):
            stage = nn.Sequential()
            for i, base in enumerate(stage_widths):
                stride = 2 if i == 0 and number > 0 else 1
                stage.append(ConvNorm(channels, channels, 3, stride, groups=channels))
                stage.append(ConvNorm(channels, int(base * width), 1))
                channels = int(base * width)
            stages.append(stage)
        super().__init__(stem, stages, **kwargs)
