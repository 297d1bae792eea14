"""Parts of re-identification models."""

from kd_mm.models.reid.bnneck import BNNeck
from kd_mm.models.reid.bnneck_head import BNNeckHead
from kd_mm.models.reid.center_loss import CenterLoss
from kd_mm.models.reid.circle_loss import CircleLoss
from kd_mm.models.reid.generalized_mean_pooling import GeneralizedMeanPooling
from kd_mm.models.reid.reid_model import ReIDModel
from kd_mm.models.reid.triplet_loss import TripletLoss

__all__ = ["BNNeck", "BNNeckHead", "CenterLoss", "CircleLoss", "GeneralizedMeanPooling", "ReIDModel", "TripletLoss"]
