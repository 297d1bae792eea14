"""Networks that upstream lacks, and the exits and connectors that distillation adds to a network."""

from kd_mm.models import backbones
from kd_mm.models.exits import CellExit, ConvConnector, Exit, LinearExit, MirrorExit, SepConvExit
from kd_mm.models.metric_losses import CenterLoss, CircleLoss, TripletLoss
from kd_mm.models.multi_exit import MultiExitClassifier, combine_exits
from kd_mm.models.reid import BNNeck, BNNeckExit, BNNeckHead, GeneralizedMeanPooling, ReIDModel

__all__ = [
    "BNNeck",
    "BNNeckExit",
    "BNNeckHead",
    "CellExit",
    "CenterLoss",
    "CircleLoss",
    "ConvConnector",
    "Exit",
    "GeneralizedMeanPooling",
    "LinearExit",
    "MirrorExit",
    "MultiExitClassifier",
    "ReIDModel",
    "SepConvExit",
    "TripletLoss",
    "backbones",
    "combine_exits",
]
