"""What a comparison reports of the best epoch beside the last one, also where it was cut off and goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ..helpers.compare import differences, weights
from ..helpers.tools import Tools, failed
from ..helpers.world import World

METRIC = "accuracy/top1"
#: The fourth epoch ruins what three have learned.
RUINOUS = ["train_cfg.max_epochs=4", "param_scheduler.milestones=[3]", "param_scheduler.gamma=1000"]
SHORT = ["train_cfg.max_epochs=1", "default_hooks.checkpoint=None"]


def compared(
    tools: Tools, world: World, folder: Path, options: list[str], kill: dict[str, Any] | None = None
) -> dict[str, Any]:
    command = ["compare", world.plain, "--work-dir", folder, "--seeds", 0, "--metric", METRIC]
    if kill is not None:
        failed(
            tools.run(*command, "--cfg-options", *options, kill=kill), "plain_seed0 failed: its process was terminated"
        )
    tools.succeeds(*command, "--cfg-options", *options)
    result: dict[str, Any] = json.loads((folder / "runs" / "plain_seed0" / "result.json").read_text())["result"]
    return result


def assert_same(folder: Path, other: Path, name: str) -> None:
    files = [each / "runs" / "plain_seed0" / name for each in (folder, other)]
    assert not differences(*map(weights, files))


def test_the_best_epoch_is_tested_for_itself_where_it_is_not_the_last(tools: Tools, world: World, tmp_path: Path):
    ruined = compared(tools, world, tmp_path / "ruined", RUINOUS)
    assert ruined[METRIC] < 60 < 90 < ruined[f"best/{METRIC}"]
    # Killed in the fourth epoch, when the checkpoint of the third was saved before its validation.
    resumed = compared(tools, world, tmp_path / "resumed", RUINOUS, {"iteration": 17})
    assert "resumed epoch: 3" in (tmp_path / "resumed" / "runs" / "plain_seed0" / "console.log").read_text()
    assert {key: resumed[key] for key in (METRIC, f"best/{METRIC}")} == {
        key: ruined[key] for key in (METRIC, f"best/{METRIC}")
    }
    for name in ("epoch_4.pth", "best.pth"):
        assert_same(tmp_path / "ruined", tmp_path / "resumed", name)


def test_an_only_epoch_is_the_best_and_is_tested_once(tools: Tools, world: World, tmp_path: Path):
    short = compared(tools, world, tmp_path / "short", SHORT)
    assert short[METRIC] == short[f"best/{METRIC}"]
    assert len(list((tmp_path / "short").rglob("test*"))) == 1
    # Killed when all but the result was there: the last checkpoint was saved before the last validation.
    resumed = compared(
        tools, world, tmp_path / "resumed", SHORT, {"call": "replace", "name": "result.json", "within": "/runs/"}
    )
    assert resumed[f"best/{METRIC}"] == short[f"best/{METRIC}"]
    assert_same(tmp_path / "short", tmp_path / "resumed", "best.pth")


def test_the_best_epoch_of_averaged_weights_has_the_averages(tools: Tools, world: World, tmp_path: Path):
    averages = 'custom_hooks = [dict(type="EMAHook", momentum=0.02)]\n'
    config = world.distil("averaged.py", changes=averages)
    tools.succeeds("compare", config, "--work-dir", tmp_path, "--seeds", 0, "--cfg-options", *SHORT)
    home = tmp_path / "runs" / "averaged_seed0"
    assert not differences(*(dict(weights(home / name)) for name in ("best.pth", "epoch_1.pth")))
    result = json.loads((home / "result.json").read_text())["result"]
    # Test and validation have the same images; the two metrics divide in another order.
    assert result["exit/student/3"] == pytest.approx(result[METRIC], rel=1e-12)
