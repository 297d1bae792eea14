"""Tasks: what differs between classification, detection and re-identification."""

from kd_mm.tasks.classification import ClassificationTask

__all__ = ["ClassificationTask"]
