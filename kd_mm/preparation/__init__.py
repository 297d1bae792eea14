"""What is computed on frozen teachers before training: exits, codes, probes, relations; by one hook, in one format."""

from kd_mm.preparation.codes import CodeTraining as CodeTraining
from kd_mm.preparation.exits import ExitTraining as ExitTraining
from kd_mm.preparation.features import ClassRelations as ClassRelations
from kd_mm.preparation.features import Probing as Probing
from kd_mm.preparation.hook import PrepareTeachersHook as PrepareTeachersHook
from kd_mm.preparation.hook import share_preparations as share_preparations
from kd_mm.preparation.hook import skip_preparation as skip_preparation
