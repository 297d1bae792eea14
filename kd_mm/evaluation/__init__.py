"""Evaluation metrics of trained networks."""

from kd_mm.evaluation.detection_ap import DetectionAP, detection_ap
from kd_mm.evaluation.detection_metric import DetectionMetric
from kd_mm.evaluation.reid_metric import ReIDMetric
from kd_mm.evaluation.reid_rank import evaluate_reid

__all__ = ["DetectionAP", "DetectionMetric", "ReIDMetric", "detection_ap", "evaluate_reid"]
