"""A teacher that is trained together with its exits, and the students that read them, from the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from ..helpers.tools import Tools
from ..helpers.world import World


@pytest.fixture(scope="module")
def with_exits(tools: Tools, world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exits")
    tools.train(world.teacher, "--with-exits", "--work-dir", folder, "--cfg-options", "model.input_size=20")
    return folder / "epoch_6.pth"


def distil(tools: Tools, world: World, checkpoint: Path, folder: Path, *options: str):
    teacher = ["--distiller", "mtkd_ssr", "--teacher", world.teacher, "--teacher-checkpoint", checkpoint]
    settings = ["model.input_size=20", "train_cfg.max_epochs=1", *options]
    return tools.run("train", world.plain, *teacher, "--work-dir", folder, "--cfg-options", *settings)


def test_students_find_its_exits_and_upstream_its_network(
    tools: Tools, world: World, with_exits: Path, tmp_path: Path
) -> None:
    ended = distil(tools, world, with_exits, tmp_path / "run")
    assert ended.status == 0, ended.err
    assert "exits of teacher 'teacher': loaded" in ended.out
    assert "training the exits" not in ended.out
    measured = r"accuracy on up to 512 images of the validation data: stage 1: [\d.]+% \(chance 36.0%\), stage 2: "
    assert re.search(measured, ended.out)
    tools.run("export_student", world.teacher, with_exits, tmp_path / "plain.pth")
    network = MODELS.build(Config.fromfile(world.teacher).model)
    network.load_state_dict(torch.load(tmp_path / "plain.pth", weights_only=True)["state_dict"], strict=True)


def test_exits_at_chance_are_warned_of(tools: Tools, world: World, with_exits: Path, tmp_path: Path) -> None:
    """Classifiers that are all zero give every class the same logit."""
    spoilt = torch.load(with_exits, weights_only=False)
    for key in [key for key in spoilt["state_dict"] if re.fullmatch(r"distill\.exits\.1\.fc\.\w+", key)]:
        spoilt["state_dict"][key].zero_()
    torch.save(spoilt, tmp_path / "spoilt.pth")
    ended = distil(tools, world, tmp_path / "spoilt.pth", tmp_path / "run")
    assert ended.status == 0, ended.err
    (line,) = [line for line in ended.out.splitlines() if "above chance" in line]
    assert "exits of teacher 'teacher' at stage 1 are not clearly above chance" in line
    assert "model.recipe.teacher_exits.epochs" in line


def test_what_does_not_go_together_is_refused(tools: Tools, world: World, with_exits: Path) -> None:
    ended = tools.run("train", world.plain, "--with-exits", "--distiller", "kd")
    assert (ended.status, "not allowed with argument" in ended.err) == (2, True)
    teacher = ["--teacher", world.teacher, "--teacher-checkpoint", with_exits]
    ended = tools.run("train", world.plain, "--with-exits", *teacher)
    assert "--distiller exits learns from no teacher" in ended.err
