"""Stages of networks: finding, reading and pairing them."""

from kd_mm.stages.discovery import discover_stages
from kd_mm.stages.recorder import Recorder
from kd_mm.stages.stage import Stage, pair_stages, stage_table
from kd_mm.stages.tap import Tap

__all__ = ["Recorder", "Stage", "Tap", "discover_stages", "pair_stages", "stage_table"]
