"""Distillation losses, one file a family. They know nothing of tasks or runners."""

from kd_mm.losses.base import Loss
from kd_mm.losses.exit_task import ExitTaskLoss
from kd_mm.losses.logits import LogitLoss
from kd_mm.losses.review import CrossStageReviewLoss
from kd_mm.losses.schedules import LinearRamp, Progress, Schedule, StepDecay
from kd_mm.losses.stage_channel import StageChannelLoss
from kd_mm.losses.stage_response import StageResponseLoss

__all__ = [
    "CrossStageReviewLoss",
    "ExitTaskLoss",
    "LinearRamp",
    "LogitLoss",
    "Loss",
    "Progress",
    "Schedule",
    "StageChannelLoss",
    "StageResponseLoss",
    "StepDecay",
]
