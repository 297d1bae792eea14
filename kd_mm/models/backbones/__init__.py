"""Backbones that upstream lacks."""

from kd_mm.models.backbones.cifar_mobilenet_v2 import CIFARMobileNetV2
from kd_mm.models.backbones.cifar_resnet import CIFARResNet
from kd_mm.models.backbones.cifar_shufflenet_v1 import CIFARShuffleNetV1
from kd_mm.models.backbones.cifar_shufflenet_v2 import CIFARShuffleNetV2
from kd_mm.models.backbones.cifar_vgg import CIFARVGG
from kd_mm.models.backbones.cifar_wide_resnet import CIFARWideResNet
from kd_mm.models.backbones.mobilenet_v1 import MobileNetV1
from kd_mm.models.backbones.osnet import OSNet

__all__ = [
    "CIFARMobileNetV2",
    "CIFARResNet",
    "CIFARShuffleNetV1",
    "CIFARShuffleNetV2",
    "CIFARVGG",
    "CIFARWideResNet",
    "MobileNetV1",
    "OSNet",
]
