"""Networks that upstream lacks."""

from kd_mm.models.bnneck import BNNeck
from kd_mm.models.bnneck_head import BNNeckHead
from kd_mm.models.center_loss import CenterLoss
from kd_mm.models.cifar_mobilenet_v2 import CIFARMobileNetV2
from kd_mm.models.cifar_resnet import CIFARResNet
from kd_mm.models.cifar_shufflenet_v1 import CIFARShuffleNetV1
from kd_mm.models.cifar_shufflenet_v2 import CIFARShuffleNetV2
from kd_mm.models.cifar_vgg import CIFARVGG
from kd_mm.models.cifar_wide_resnet import CIFARWideResNet
from kd_mm.models.circle_loss import CircleLoss
from kd_mm.models.exit_ensemble import combine_exits
from kd_mm.models.generalized_mean_pooling import GeneralizedMeanPooling
from kd_mm.models.mobilenet_v1 import MobileNetV1
from kd_mm.models.multi_exit import MultiExitClassifier
from kd_mm.models.osnet import OSNet
from kd_mm.models.reid_model import ReIDModel
from kd_mm.models.triplet_loss import TripletLoss

__all__ = [
    "BNNeck",
    "BNNeckHead",
    "CIFARMobileNetV2",
    "CIFARResNet",
    "CIFARShuffleNetV1",
    "CIFARShuffleNetV2",
    "CIFARVGG",
    "CIFARWideResNet",
    "CenterLoss",
    "CircleLoss",
    "GeneralizedMeanPooling",
    "MobileNetV1",
    "MultiExitClassifier",
    "OSNet",
    "ReIDModel",
    "TripletLoss",
    "combine_exits",
]
