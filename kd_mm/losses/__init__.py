"""Distillation losses, one file a family. They know nothing of tasks or runners."""

from kd_mm.losses.base import Loss, LossContext
from kd_mm.losses.byot import BYOTHintLoss
from kd_mm.losses.consistency import ConsistencyLoss
from kd_mm.losses.cosine import CosineLoss, EmbeddingLoss
from kd_mm.losses.crd import CRDLoss
from kd_mm.losses.crosskd import CrossKDLoss
from kd_mm.losses.cwd import CWDLoss
from kd_mm.losses.det_kd import DetKDLoss
from kd_mm.losses.dist import DISTLoss
from kd_mm.losses.dkd import DKDLoss
from kd_mm.losses.exit_task import ExitTaskLoss
from kd_mm.losses.feature_hints import ATLoss, FitNetsLoss, VIDLoss
from kd_mm.losses.fgd import FGDLoss
from kd_mm.losses.gpac import GPACAttentionLoss
from kd_mm.losses.granularity import MAGLoss, MASLoss
from kd_mm.losses.instruction import InstructionLoss
from kd_mm.losses.kd import KDLoss
from kd_mm.losses.multi_teacher_feature import MultiTeacherFeatureLoss
from kd_mm.losses.multi_teacher_kd import TeamLogitLoss
from kd_mm.losses.observation import Observation
from kd_mm.losses.ofd import OFDLoss
from kd_mm.losses.pkd import PKDLoss
from kd_mm.losses.response_transform import ResponseTransform
from kd_mm.losses.responses import ResponseLoss
from kd_mm.losses.review import CrossStageReviewLoss
from kd_mm.losses.reviewkd import ReviewKDLoss
from kd_mm.losses.rkd import RKDAngleLoss, RKDDistanceLoss
from kd_mm.losses.schedules import LinearRamp, PiecewiseConstant, Progress, Schedule, StepDecay
from kd_mm.losses.skd import LearningSimplifier
from kd_mm.losses.sp import SPLoss
from kd_mm.losses.stage_channel import StageChannelLoss
from kd_mm.losses.stage_response import StageResponseLoss

__all__ = [
    "RKDAngleLoss",
    "ATLoss",
    "CWDLoss",
    "MAGLoss",
    "ConsistencyLoss",
    "CRDLoss",
    "DISTLoss",
    "CosineLoss",
    "CrossKDLoss",
    "CrossStageReviewLoss",
    "DKDLoss",
    "DetKDLoss",
    "RKDDistanceLoss",
    "EmbeddingLoss",
    "BYOTHintLoss",
    "ExitTaskLoss",
    "FGDLoss",
    "FitNetsLoss",
    "InstructionLoss",
    "ReviewKDLoss",
    "LearningSimplifier",
    "PiecewiseConstant",
    "LinearRamp",
    "KDLoss",
    "Loss",
    "OFDLoss",
    "Observation",
    "PKDLoss",
    "GPACAttentionLoss",
    "Progress",
    "ResponseLoss",
    "ResponseTransform",
    "Schedule",
    "LossContext",
    "SPLoss",
    "MASLoss",
    "StageChannelLoss",
    "StageResponseLoss",
    "StepDecay",
    "MultiTeacherFeatureLoss",
    "TeamLogitLoss",
    "VIDLoss",
]
