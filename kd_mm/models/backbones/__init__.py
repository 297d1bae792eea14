"""Backbones that upstream lacks."""

from kd_mm.models.backbones.cifar import CIFARVGG, CIFARResNet, CIFARWideResNet
from kd_mm.models.backbones.mobile import CIFARMobileNetV2, CIFARShuffleNetV1, CIFARShuffleNetV2, MobileNetV1
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
