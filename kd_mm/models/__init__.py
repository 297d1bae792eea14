"""Networks that upstream lacks, and the exits and connectors that distillation adds to a network."""

from kd_mm.models import backbones as backbones
from kd_mm.models.exits import CellExit as CellExit
from kd_mm.models.exits import ConvConnector as ConvConnector
from kd_mm.models.exits import Exit as Exit
from kd_mm.models.exits import MirrorExit as MirrorExit
from kd_mm.models.exits import SepConvExit as SepConvExit
from kd_mm.models.multi_exit import MultiExitClassifier as MultiExitClassifier
from kd_mm.models.multi_exit import combine_exits as combine_exits
from kd_mm.models.reid import BNNeck as BNNeck
from kd_mm.models.reid import BNNeckExit as BNNeckExit
from kd_mm.models.reid import BNNeckHead as BNNeckHead
from kd_mm.models.reid import ReIDModel as ReIDModel
from kd_mm.models.triplet_loss import TripletLoss as TripletLoss
