"""Networks that upstream lacks, and the exits and connectors that distillation adds to a network."""

from kd_mm.models import backbones, reid
from kd_mm.models.cell_exit import CellExit
from kd_mm.models.connectors import ConvConnector
from kd_mm.models.exits import Exit, LinearExit, MirrorExit, SepConvExit
from kd_mm.models.multi_exit import MultiExitClassifier, combine_exits
from kd_mm.models.reid.bnneck_head import BNNeckExit

__all__ = [
    "BNNeckExit",
    "CellExit",
    "ConvConnector",
    "Exit",
    "LinearExit",
    "MirrorExit",
    "MultiExitClassifier",
    "SepConvExit",
    "backbones",
    "combine_exits",
    "reid",
]
