"""Backbones that upstream lacks."""

from kd_mm.models.backbones.cifar import CIFARVGG as CIFARVGG
from kd_mm.models.backbones.cifar import CIFARResNet as CIFARResNet
from kd_mm.models.backbones.cifar import CIFARWideResNet as CIFARWideResNet
from kd_mm.models.backbones.mobile import CIFARMobileNetV2 as CIFARMobileNetV2
from kd_mm.models.backbones.mobile import CIFARShuffleNetV1 as CIFARShuffleNetV1
from kd_mm.models.backbones.mobile import CIFARShuffleNetV2 as CIFARShuffleNetV2
from kd_mm.models.backbones.mobile import MobileNetV1 as MobileNetV1
from kd_mm.models.backbones.osnet import OSNet as OSNet
