"""Distillation losses, one file a method. They know nothing of runners."""

from kd_mm.losses.at import ATLoss
from kd_mm.losses.base import Loss, LossContext, StageTerms
from kd_mm.losses.byot import BYOTHintLoss
from kd_mm.losses.cosine import CosineLoss, EmbeddingLoss
from kd_mm.losses.crd import CRDLoss
from kd_mm.losses.crosskd import CrossKDLoss
from kd_mm.losses.cwd import CWDLoss
from kd_mm.losses.det_kd import DetKDLoss
from kd_mm.losses.dist import DISTLoss
from kd_mm.losses.dkd import DKDLoss
from kd_mm.losses.fgd import FGDLoss
from kd_mm.losses.fitnets import FeatureLoss, FitNetsLoss
from kd_mm.losses.gpac import GPACAttentionLoss
from kd_mm.losses.kd import KDLoss, LogitsLoss
from kd_mm.losses.ld import LDLoss
from kd_mm.losses.mag import MAGLoss, MASLoss
from kd_mm.losses.mgd import MGDLoss
from kd_mm.losses.mtkd_ssr import ExitTaskLoss, StageChannelLoss, StageResponseLoss
from kd_mm.losses.mtkd_ssr_cells import CellResponseLoss, CellReviewLoss
from kd_mm.losses.multi_teacher import MultiTeacherFeatureLoss, MultiTeacherKDLoss, MultiTeacherLoss
from kd_mm.losses.observation import Observation, StageLogits
from kd_mm.losses.ofd import OFDLoss
from kd_mm.losses.pkd import PKDLoss
from kd_mm.losses.review import CrossStageReviewLoss
from kd_mm.losses.reviewkd import ReviewKDLoss
from kd_mm.losses.rkd import RKDAngleLoss, RKDDistanceLoss
from kd_mm.losses.schedules import CosineDecay, LinearRamp, PiecewiseConstant, Progress, Schedule
from kd_mm.losses.skd import LearningSimplifier
from kd_mm.losses.sp import SPLoss
from kd_mm.losses.vid import VIDLoss
from kd_mm.losses.wkd import WKDFeatureLoss, WKDLogitsLoss

__all__ = [
    "ATLoss",
    "BYOTHintLoss",
    "CRDLoss",
    "CWDLoss",
    "CellResponseLoss",
    "CellReviewLoss",
    "CosineDecay",
    "CosineLoss",
    "CrossKDLoss",
    "CrossStageReviewLoss",
    "DISTLoss",
    "DKDLoss",
    "DetKDLoss",
    "EmbeddingLoss",
    "ExitTaskLoss",
    "FGDLoss",
    "FeatureLoss",
    "FitNetsLoss",
    "GPACAttentionLoss",
    "KDLoss",
    "LDLoss",
    "LearningSimplifier",
    "LinearRamp",
    "LogitsLoss",
    "Loss",
    "LossContext",
    "MAGLoss",
    "MASLoss",
    "MGDLoss",
    "MultiTeacherFeatureLoss",
    "MultiTeacherKDLoss",
    "MultiTeacherLoss",
    "OFDLoss",
    "Observation",
    "PKDLoss",
    "PiecewiseConstant",
    "Progress",
    "RKDAngleLoss",
    "RKDDistanceLoss",
    "ReviewKDLoss",
    "SPLoss",
    "Schedule",
    "StageChannelLoss",
    "StageLogits",
    "StageResponseLoss",
    "StageTerms",
    "VIDLoss",
    "WKDFeatureLoss",
    "WKDLogitsLoss",
]
