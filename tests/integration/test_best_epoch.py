"""What a comparison reports of the best epoch beside the last one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..helpers.tools import Tools
from ..helpers.world import World

METRIC = "accuracy/top1"


def compared(tools: Tools, world: World, folder: Path, *options: str) -> dict[str, Any]:
    command = ["compare", world.plain, "--work-dir", folder, "--seeds", 0, "--metric", METRIC]
    ended = tools.run(*command, "--cfg-options", *options)
    assert ended.status == 0, ended.out[-2000:] + ended.err[-4000:]
    result: dict[str, Any] = json.loads((folder / "runs" / "plain_seed0" / "result.json").read_text())["result"]
    return result


def test_the_best_epoch_is_tested_for_itself_where_it_is_not_the_last(tools: Tools, world: World, tmp_path: Path):
    """The fourth epoch ruins what three have learned; the only epoch is the best, and is tested once."""
    ruinous = ["train_cfg.max_epochs=4", "param_scheduler.milestones=[3]", "param_scheduler.gamma=1000"]
    ruined = compared(tools, world, tmp_path / "ruined", *ruinous)
    assert ruined[METRIC] < 60 < 90 < ruined[f"best/{METRIC}"]
    short = compared(tools, world, tmp_path / "short", "train_cfg.max_epochs=1")
    assert short[METRIC] == short[f"best/{METRIC}"]
    assert len(list((tmp_path / "short").rglob("test*"))) == 1
