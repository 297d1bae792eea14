"""Backbones that upstream lacks."""

from kd_mm.models.backbones.cifar_resnet import CIFARResNet
from kd_mm.models.backbones.cifar_shufflenet import CIFARShuffleNetV1, CIFARShuffleNetV2
from kd_mm.models.backbones.cifar_vgg import CIFARVGG
from kd_mm.models.backbones.cifar_wide_resnet import CIFARWideResNet
from kd_mm.models.backbones.mobilenet import CIFARMobileNetV2, MobileNetV1
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
