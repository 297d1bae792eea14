"""Tasks: what differs between classification, detection and re-identification."""

from typing import Any

from torch import nn

from kd_mm.registry import TASKS
from kd_mm.tasks.base import Batch as Batch
from kd_mm.tasks.base import Task as Task
from kd_mm.tasks.base import TeacherScore as TeacherScore
from kd_mm.tasks.classification import ClassificationTask as ClassificationTask
from kd_mm.tasks.detection import DetectionTask as DetectionTask
from kd_mm.tasks.multilabel import MultiLabelTask as MultiLabelTask
from kd_mm.tasks.multilabel import is_multilabel as is_multilabel
from kd_mm.tasks.prediction_readers import LogitsReader as LogitsReader
from kd_mm.tasks.reid import ReIDTask as ReIDTask
from kd_mm.tasks.reid import is_reid_model
from kd_mm.tasks.targets import DetectionTargets as DetectionTargets

#: Upstream's networks that no task fits, by the module of their class, and what to distil instead.
WITHOUT_TASK = {
    "mmdet.models.mot": "a tracker: distil its detector by itself (the config's model.detector)",
    "mmdet.models.reid": "a tracker's re-ID network, whose head gives an embedding and no logits: distil a "
    "kd_mm.ReIDModel (configs/reid)",
    "mmdet.models.detectors.semi_base": "semi-supervised, with a teacher of its own: distil its detector by itself "
    "(the config's model.detector)",
    "mmdet.models.detectors.kd_one_stage": "a distillation of upstream's, with a teacher of its own: distil its "
    "student, a config without teacher_config",
    "mmpretrain.models.selfsup": "self-supervised, without labels: distil a classifier that starts from its weights",
    "mmpretrain.models.multimodal": "multimodal: distil a classifier",
    "mmpretrain.models.retrievers": "a retriever: distil an ImageClassifier, or a kd_mm.ReIDModel (configs/reid)",
}


def build_task(config: dict[str, Any] | None, student: nn.Module) -> Task:
    """Build the task that a config names, or the one that suits the student.

    That is detection for mmdet's detectors, re-identification where the head has a ``bnneck``, and multi-label
    classification where it is one of mmpretrain's multi-label heads.

    Raises:
        ValueError: No task is named, and none suits the student.
    """
    modules = [kind.__module__ for kind in type(student).__mro__]
    for prefix, reason in WITHOUT_TASK.items():
        if config is None and any(module.startswith(prefix) for module in modules):
            raise ValueError(f"{type(student).__name__} is {reason}; kd_mm distils classifiers, detectors and re-ID")
    if any(module.startswith("mmdet.models.detectors") for module in modules):
        default = "DetectionTask"
    elif is_reid_model(student):
        default = "ReIDTask"
    else:
        default = "MultiLabelTask" if is_multilabel(student) else "ClassificationTask"
    return TASKS.build({"type": default, "_scope_": "kd_mm", **(config or {})})
