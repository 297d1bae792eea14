"""Runs with a teacher that follows the student: parity, formula, resumes, two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.devices import PAIRS

from ..helpers.compare import differences, weights
from ..helpers.tools import KILLED, Tools
from ..helpers.world import World

PREFIX = "distill.teachers.ema."
#: The moving average of mmengine beside ours, partial gradients, checkpoints in the middle of epochs.
CHANGES = """
default_hooks = dict(checkpoint=dict(interval=INTERVAL, by_epoch=False, max_keep_ckpts=-1))
optim_wrapper = dict(accumulative_counts=2)
custom_hooks = [dict(type="EMAHook", momentum=0.1)]
model = dict(recipe=dict(teachers=dict(ema=dict(momentum=0.7)), losses=dict(ema=dict(schedule=dict(fraction=0.2)))))
"""


def split(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The student, and the teacher that follows it."""
    teacher = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
    return {key: value for key, value in state.items() if not key.startswith("distill.")}, teacher


def raw(file: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The student's own weights, which mmengine's EMAHook stores beside the average."""
    stored = file["ema_state_dict"]
    return {key.removeprefix("module."): value for key, value in stored.items() if key.startswith("module.")}


@pytest.fixture(scope="module")
def config(world: World) -> Path:
    return world.distil("ema.py", recipe="ema_teacher", changes=CHANGES.replace("INTERVAL", "1"))


@pytest.fixture(scope="module")
def uncut(tools: Tools, world: World, config: Path) -> Path:
    """A run of ten iterations, five steps."""
    tools.train(config, "--work-dir", world.folder / "ema")
    return world.folder / "ema"


def test_it_follows_every_step_and_nothing_else(uncut: Path) -> None:
    average: dict[str, torch.Tensor] = {}
    for iteration in range(1, 11):
        file = torch.load(uncut / f"iter_{iteration}.pth", weights_only=False)
        student, teacher = raw(file), split(file["state_dict"])[1]
        assert int(teacher.pop("updates")) == iteration // 2
        teacher = {key.removeprefix("model."): value for key, value in teacher.items()}
        if iteration % 2 == 0:
            keep = min(0.7, 1 - 1 / (iteration // 2 + 1))
            for name, value in average.items():
                moves = value.is_floating_point()
                average[name] = keep * value + (1 - keep) * student[name] if moves else student[name]
        elif iteration == 1:
            average = dict(teacher)
        assert teacher.keys() == student.keys()
        for name, value in teacher.items():
            torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-6)


def test_the_plain_config_loads_its_checkpoints(tools: Tools, world: World, uncut: Path, tmp_path: Path) -> None:
    tools.test(world.plain, uncut / "iter_10.pth", "--work-dir", tmp_path)
    ended = tools.run("export_student", world.folder / "ema.py", uncut / "iter_10.pth", tmp_path / "out.pth")
    assert ended.status == 0, ended.err
    student, teacher = split(weights(uncut / "iter_10.pth"))
    assert differences(dict(weights(tmp_path / "out.pth")), dict(student)) == []
    export = ["export_student", world.folder / "ema.py", uncut / "iter_10.pth", tmp_path / "average.pth"]
    assert tools.run(*export, "--teacher", "ema").status == 0
    average = weights(tmp_path / "average.pth")
    assert differences(dict(average), {name: teacher[f"model.{name}"] for name in student}) == []
    tools.test(tmp_path / "average.py", tmp_path / "average.pth", "--work-dir", tmp_path)
    assert "holds no such teacher, only those that followed the student, did you mean 'ema'?" in (
        tools.run(*export, "--teacher", "em").err
    )


@pytest.mark.parametrize("tools", PAIRS, indirect=True)
def test_two_killed_processes_go_on_exactly(tools: Tools, world: World, tmp_path: Path) -> None:
    config = world.distil("killed_ema.py", recipe="ema_teacher", changes=CHANGES.replace("INTERVAL", "1"))
    command = [config, "--launcher", "pytorch", "--resume", "--work-dir"]
    tools.train(*command, tmp_path / "uncut", ranks=2)
    for iteration in (3, 5):
        kill = {"iteration": iteration}
        assert tools.run("train", *command, tmp_path / "cut", ranks=2, kill=kill).status == KILLED
    ended = tools.train(*command, tmp_path / "cut", ranks=2)
    assert "resumed epoch" in ended.out
    last = (tmp_path / "uncut" / "last_checkpoint").read_text().rpartition("/")[2]
    found, expected = (torch.load(tmp_path / name / last, weights_only=False) for name in ("cut", "uncut"))
    for part in ("state_dict", "ema_state_dict", "optimizer"):
        assert differences(found[part], expected[part]) == []
    states = [run["exact_resume"]["ranks"] for run in (found, expected)]
    assert differences(*([rank["buffers"] for rank in run] for run in states)) == []
    assert any(PREFIX in name for name in states[0][1]["buffers"])


def test_it_starts_from_the_weights_that_are_loaded(tools: Tools, uncut: Path, config: Path, tmp_path: Path) -> None:
    changes = [f"load_from={uncut}/iter_4.pth", "train_cfg.max_epochs=1"]
    tools.train(config, "--amp", "--work-dir", tmp_path, "--cfg-options", *changes)
    file = torch.load(tmp_path / "iter_1.pth", weights_only=False)
    teacher = split(file["state_dict"])[1]
    assert int(teacher["updates"]) == 0
    student, _ = split(weights(uncut / "iter_4.pth"))
    for name, value in student.items():
        torch.testing.assert_close(teacher[f"model.{name}"], value, rtol=0, atol=0)
    assert int(split(weights(tmp_path / "iter_5.pth"))[1]["updates"]) == 3  # the last one of an epoch is a step
