"""Tasks: what differs between classification, detection and re-identification."""

from __future__ import annotations

from typing import Any

from torch import nn

from kd_mm.registry import TASKS
from kd_mm.tasks.base import Batch, Task
from kd_mm.tasks.classification import ClassificationTask
from kd_mm.tasks.detection import DetectionTask
from kd_mm.tasks.prediction_readers import LogitsReader
from kd_mm.tasks.reid import ReIDTask, is_reid_model
from kd_mm.tasks.targets import DetectionTargets

__all__ = [
    "Batch",
    "ClassificationTask",
    "DetectionTargets",
    "DetectionTask",
    "LogitsReader",
    "ReIDTask",
    "Task",
    "build_task",
]


def build_task(config: dict[str, Any] | None, student: nn.Module) -> Task:
    """Build the task that a config names, or the one that suits the student.

    That is detection for mmdet's detectors, and re-identification where the head has a ``bnneck``.
    """
    if any(kind.__module__.startswith("mmdet.models.detectors") for kind in type(student).__mro__):
        default = "DetectionTask"
    else:
        default = "ReIDTask" if is_reid_model(student) else "ClassificationTask"
    return TASKS.build({"type": default, "_scope_": "kd_mm", **(config or {})})
