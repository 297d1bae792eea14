"""What is computed on frozen teachers before training: exits, codes, probes, relations; by one hook, in one format."""

from kd_mm.preparation.codes import CodeTraining
from kd_mm.preparation.exits import ExitTraining
from kd_mm.preparation.features import ClassRelations, Probing
from kd_mm.preparation.hook import PrepareTeachersHook, share_preparations, skip_preparation

__all__ = [
    "ClassRelations",
    "CodeTraining",
    "ExitTraining",
    "PrepareTeachersHook",
    "Probing",
    "share_preparations",
    "skip_preparation",
]
