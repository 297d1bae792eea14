"""Distillation losses, one file a family. They know nothing of tasks or runners."""

from kd_mm.losses.base import Loss, Setting
from kd_mm.losses.channel_wise import ChannelWiseLoss
from kd_mm.losses.consistency import ConsistencyLoss
from kd_mm.losses.contrastive import ContrastiveLoss
from kd_mm.losses.correlation import CorrelationLogitLoss
from kd_mm.losses.cross_head import CrossHeadLoss
from kd_mm.losses.decoupled import DecoupledLogitLoss
from kd_mm.losses.detector_answer import DetectorAnswerLoss
from kd_mm.losses.embedding import CosineEmbeddingLoss, EmbeddingLoss
from kd_mm.losses.exit_hint import ExitHintLoss
from kd_mm.losses.exit_task import ExitTaskLoss
from kd_mm.losses.feature_hints import AttentionTransferLoss, HintLoss, VariationalInformationLoss
from kd_mm.losses.focal_global import FocalGlobalLoss
from kd_mm.losses.granularity import CodeLoss, StableLogitLoss
from kd_mm.losses.instruction import InstructionLoss
from kd_mm.losses.knowledge_review import KnowledgeReviewLoss
from kd_mm.losses.learning_simplifier import LearningSimplifier
from kd_mm.losses.logits import LogitLoss
from kd_mm.losses.overhaul import OverhaulLoss
from kd_mm.losses.pearson_feature import PearsonFeatureLoss
from kd_mm.losses.probed_attention import ProbedAttentionLoss
from kd_mm.losses.relations import AngleRelationLoss, DistanceRelationLoss
from kd_mm.losses.response_transform import ResponseTransform
from kd_mm.losses.responses import ResponseLoss
from kd_mm.losses.review import CrossStageReviewLoss
from kd_mm.losses.schedules import Levels, LinearRamp, Progress, Schedule, StepDecay
from kd_mm.losses.similarity import SimilarityLoss
from kd_mm.losses.stage_channel import StageChannelLoss
from kd_mm.losses.stage_response import StageResponseLoss
from kd_mm.losses.team import TeamLogitLoss
from kd_mm.losses.team_features import TeamHintLoss

__all__ = [
    "AngleRelationLoss",
    "AttentionTransferLoss",
    "ChannelWiseLoss",
    "CodeLoss",
    "ConsistencyLoss",
    "ContrastiveLoss",
    "CorrelationLogitLoss",
    "CosineEmbeddingLoss",
    "CrossHeadLoss",
    "CrossStageReviewLoss",
    "DecoupledLogitLoss",
    "DetectorAnswerLoss",
    "DistanceRelationLoss",
    "EmbeddingLoss",
    "ExitHintLoss",
    "ExitTaskLoss",
    "FocalGlobalLoss",
    "HintLoss",
    "InstructionLoss",
    "KnowledgeReviewLoss",
    "LearningSimplifier",
    "Levels",
    "LinearRamp",
    "LogitLoss",
    "Loss",
    "OverhaulLoss",
    "PearsonFeatureLoss",
    "ProbedAttentionLoss",
    "Progress",
    "ResponseLoss",
    "ResponseTransform",
    "Schedule",
    "Setting",
    "SimilarityLoss",
    "StableLogitLoss",
    "StageChannelLoss",
    "StageResponseLoss",
    "StepDecay",
    "TeamHintLoss",
    "TeamLogitLoss",
    "VariationalInformationLoss",
]
