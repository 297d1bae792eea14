"""Parts of re-identification models."""

from kd_mm.models.reid.bnneck_head import BNNeck, BNNeckHead
from kd_mm.models.reid.generalized_mean_pooling import GeneralizedMeanPooling
from kd_mm.models.reid.metric_losses import CenterLoss, CircleLoss, TripletLoss
from kd_mm.models.reid.reid_model import ReIDModel

__all__ = ["BNNeck", "BNNeckHead", "CenterLoss", "CircleLoss", "GeneralizedMeanPooling", "ReIDModel", "TripletLoss"]
