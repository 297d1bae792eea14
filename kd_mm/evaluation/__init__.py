"""Measures of trained networks; nothing here knows of distillation. See the modules."""

from kd_mm.evaluation.coco import CocoResult, coco_average_precision
from kd_mm.evaluation.coco_json import write_coco_json
from kd_mm.evaluation.detection_metric import DetectionMetric
from kd_mm.evaluation.detection_table import detection_table
from kd_mm.evaluation.matches import MatchTable, match_boxes
from kd_mm.evaluation.precision_recall import draw_precision_recall
from kd_mm.evaluation.reid import evaluate_reid
from kd_mm.evaluation.reid_expansion import average_query_expansion
from kd_mm.evaluation.reid_metric import ReIDMetric
from kd_mm.evaluation.rerank import ReRanking
from kd_mm.evaluation.voc import Curve, VocResult, voc_average_precision

__all__ = [
    "CocoResult",
    "Curve",
    "DetectionMetric",
    "MatchTable",
    "ReIDMetric",
    "ReRanking",
    "VocResult",
    "average_query_expansion",
    "coco_average_precision",
    "detection_table",
    "draw_precision_recall",
    "evaluate_reid",
    "match_boxes",
    "voc_average_precision",
    "write_coco_json",
]
