"""Distillations that are killed for real, at several moments, and resumed: every bit as if nothing had happened."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ..helpers.compare import differences
from ..helpers.tools import KILLED, Tools
from ..helpers.world import World
from .test_zero_weights import RANDOM

#: 15 iterations in three epochs; checkpoints in the middle of epochs, with the weights' moving average.
BY_ITERATION = """
default_hooks = dict(checkpoint=dict(interval=4, by_epoch=False, max_keep_ckpts=2))
train_cfg = dict(max_epochs=3)
"""
#: Workers that live on, partial gradients, the best checkpoint kept.
BY_EPOCH = """
default_hooks = dict(checkpoint=dict(interval=1, save_best="auto"))
train_cfg = dict(max_epochs=3)
train_dataloader = dict(num_workers=2, persistent_workers=True)
optim_wrapper = dict(accumulative_counts=2)
"""
PREPARING = [
    {"call": "replace", "name": "partial.pth", "nth": 2},
    {"call": "fsync", "name": "partial.pth", "nth": 2},
    {"call": "fsync", "name": "teacher_exits_teacher", "nth": 2},
]
TRAINING = [
    {"iteration": 0},
    {"iteration": 7},
    {"call": "fsync", "name": "iter_8.pth"},
    {"call": "replace", "name": "iter_12.pth"},
    {"iteration": 14},
]
CASES = {
    "by iteration": (BY_ITERATION, "iter_15.pth", [*PREPARING, *TRAINING]),
    "by epoch": (BY_EPOCH, "epoch_3.pth", [{"iteration": 8}, {"call": "fsync", "name": "epoch_2.pth"}]),
}


def state(folder: Path, name: str) -> dict[str, Any]:
    """What a run leaves behind: weights and their average, optimizer, schedules, random states, the exits' file."""
    stored = torch.load(folder / name, weights_only=False)
    (exits,) = folder.glob("teacher_exits_*.pth")
    kept = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers")
    return {
        **{part: stored[part] for part in kept},
        "random": stored["exact_resume"]["ranks"][0]["random"],
        "best": stored["message_hub"]["runtime_info"].get("best_score"),
        "exits": (exits.name, torch.load(exits, weights_only=True)),
    }


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_was_killed_again_and_again(tools: Tools, world: World, tmp_path: Path, name: str) -> None:
    changes, last, kills = CASES[name]
    world.write("noisy.py", RANDOM)
    config = world.distil("killed.py", plain="noisy.py", changes=changes)
    tools.train(config, "--work-dir", tmp_path / "uncut")
    # To the end only when no kill is left; the first start has nothing to resume.
    logs = []
    for kill in kills:
        ended = tools.run("train", config, "--work-dir", tmp_path / "cut", "--resume", kill=kill)
        assert ended.status == KILLED, (kill, ended.err[-2000:])
        logs.append(ended.out)
    ended = tools.train(config, "--work-dir", tmp_path / "cut", "--resume")
    assert "resumed epoch" in ended.out
    assert "will differ from an uninterrupted one" not in ended.out
    assert differences(state(tmp_path / "uncut", last), state(tmp_path / "cut", last)) == []
    prepared = [re.findall(r"exits of teacher 'teacher': continued after epoch (\d)", log) for log in logs]
    assert prepared[: len(PREPARING) + 1] == [[], ["1"], ["2"], ["3"]] or name != "by iteration"
    assert not any(prepared[len(PREPARING) + 1 :])
    leftovers = [path.name for path in (tmp_path / "cut").iterdir() if ".part" in path.name]
    assert leftovers == []
