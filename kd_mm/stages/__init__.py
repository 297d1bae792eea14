"""Stages of networks: finding, reading and pairing them, and what hangs on them."""

from kd_mm.stages.connectors import ConvConnector
from kd_mm.stages.discovery import discover_stages
from kd_mm.stages.exits import BottleneckExit, Exit, LinearExit, MirrorExit, SepConvExit
from kd_mm.stages.observation import Observation
from kd_mm.stages.pairing import pair_stages
from kd_mm.stages.recorder import Recorder
from kd_mm.stages.reid_exit import BNNeckExit
from kd_mm.stages.stage import Stage
from kd_mm.stages.table import stage_table
from kd_mm.stages.tap import Tap

__all__ = [
    "BNNeckExit",
    "BottleneckExit",
    "ConvConnector",
    "Exit",
    "LinearExit",
    "MirrorExit",
    "Observation",
    "Recorder",
    "SepConvExit",
    "Stage",
    "Tap",
    "discover_stages",
    "pair_stages",
    "stage_table",
]
