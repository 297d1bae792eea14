"""Distillation losses, one file a family. They know nothing of tasks or runners."""

from kd_mm.losses.base import Loss, Setting
from kd_mm.losses.channel_wise import ChannelWiseLoss
from kd_mm.losses.correlation import CorrelationLogitLoss
from kd_mm.losses.cross_head import CrossHeadLoss
from kd_mm.losses.decoupled import DecoupledLogitLoss
from kd_mm.losses.detector_answer import DetectorAnswerLoss
from kd_mm.losses.exit_task import ExitTaskLoss
from kd_mm.losses.focal_global import FocalGlobalLoss
from kd_mm.losses.logits import LogitLoss
from kd_mm.losses.pearson_feature import PearsonFeatureLoss
from kd_mm.losses.responses import ResponseLoss
from kd_mm.losses.review import CrossStageReviewLoss
from kd_mm.losses.schedules import LinearRamp, Progress, Schedule, StepDecay
from kd_mm.losses.similarity import SimilarityLoss
from kd_mm.losses.stage_channel import StageChannelLoss
from kd_mm.losses.stage_response import StageResponseLoss

__all__ = [
    "ChannelWiseLoss",
    "CorrelationLogitLoss",
    "CrossHeadLoss",
    "CrossStageReviewLoss",
    "DecoupledLogitLoss",
    "DetectorAnswerLoss",
    "ExitTaskLoss",
    "FocalGlobalLoss",
    "LinearRamp",
    "LogitLoss",
    "Loss",
    "PearsonFeatureLoss",
    "Progress",
    "ResponseLoss",
    "Schedule",
    "Setting",
    "SimilarityLoss",
    "StageChannelLoss",
    "StageResponseLoss",
    "StepDecay",
]
