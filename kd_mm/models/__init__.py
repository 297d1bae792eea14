"""Networks that upstream lacks."""

from kd_mm.models.cifar_mobilenet_v2 import CIFARMobileNetV2
from kd_mm.models.cifar_resnet import CIFARResNet
from kd_mm.models.cifar_shufflenet_v1 import CIFARShuffleNetV1
from kd_mm.models.cifar_shufflenet_v2 import CIFARShuffleNetV2
from kd_mm.models.cifar_vgg import CIFARVGG
from kd_mm.models.cifar_wide_resnet import CIFARWideResNet
from kd_mm.models.mobilenet_v1 import MobileNetV1

__all__ = [
    "CIFARMobileNetV2",
    "CIFARResNet",
    "CIFARShuffleNetV1",
    "CIFARShuffleNetV2",
    "CIFARVGG",
    "CIFARWideResNet",
    "MobileNetV1",
]
