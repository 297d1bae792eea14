"""A teacher, a distillation and its evaluation, as a user does them one after the other."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from mmpretrain import FeatureExtractor, init_model

from ..helpers.compare import differences, weights
from ..helpers.tools import Ended, Tools
from ..helpers.world import World, exits_in

UPSTREAM = """
_base_ = "plain.py"
model = dict(
    backbone=dict(_delete_=True, type="ResNet_CIFAR", depth=18, stem_channels=8, base_channels=8),
    head=dict(in_channels=64),
)
"""


class Run:
    """A student of upstream's that learned with MTKD-SSR."""

    def __init__(self, tools: Tools, world: World) -> None:
        self.plain = world.write("upstream.py", UPSTREAM)
        self.config = world.distil("distil.py", plain="upstream.py")
        self.folder = world.folder / "distilled"
        self.ended = tools.train(self.config, "--work-dir", self.folder)
        self.checkpoint = self.folder / "epoch_2.pth"


@pytest.fixture(scope="module")
def run(tools: Tools, world: World) -> Run:
    return Run(tools, world)


def accuracy(ended: Ended) -> float:
    """The last accuracy in a log, in percent."""
    return float(re.findall(r"accuracy/top1: ([\d.]+)", ended.out)[-1])


def exits(folder: Path) -> list[Path]:
    return sorted(folder.glob("teacher_exits_*.pth"))


def test_the_log_shows_what_is_learned_from_whom(run: Run) -> None:
    log = run.ended.out
    table = log[log.index("Networks") : log.index("Epoch(train)")]
    for row in (r"ResNet_CIFAR-18 .* student", r"CIFARResNet.* teacher .*\d% of the first 25 validation images"):
        assert re.search(row, table), table
    # The student has four stages, the teacher three; the deepest are matched.
    for stage, cells in ((1, "16x10x10"), (2, "32x5x5"), (3, "64x3x3")):
        assert re.search(rf" {stage} .* backbone.layer{stage + 1} {cells} .* backbone.layer{stage} ", table), table
    for loss in ("aux", "review", "scd", "srd"):
        assert re.search(rf" {loss} ", table), table
    found = re.search(r"exits of teacher 'teacher', accuracy on the validation data: (.*)", log)
    assert found
    chance = r"[\d.]+% \(chance 36.0%\)"
    assert re.fullmatch(f"stage 1: {chance}, stage 2: {chance}", found[1])
    lines = [line for line in log.splitlines() if "Epoch(train)" in line]
    for term in ("loss_student", "loss_aux", "aux.stage1", "loss_review", "review.stage3to2", "loss_scd", "scd.stage3"):
        assert all(f" {term}: " in line for line in lines), term
    assert "srd.stage3" in lines[0]


def test_the_logged_terms_add_up(run: Run) -> None:
    scalars = [json.loads(line) for line in next(run.folder.glob("*/vis_data/scalars.json")).read_text().splitlines()]
    steps = [row for row in scalars if "loss" in row]
    assert len(steps) == 4  # every second of 5 iterations, two epochs
    for row in steps:
        own, terms = row["loss_student"], [row[f"loss_{name}"] for name in ("aux", "review", "scd", "srd")]
        assert row["loss"] == pytest.approx(own + sum(terms), rel=1e-5)
        assert row["scd"] == pytest.approx(sum(row[f"scd.stage{i}"] for i in (1, 2, 3)), rel=1e-5)
    # 0.3 times a ramp over two epochs, 1/2 and then 1 (the third row is a mean over steps of both).
    for row, ramp in ((steps[0], 0.5), (steps[1], 0.5), (steps[3], 1.0)):
        assert row["loss_review"] == pytest.approx(0.3 * ramp * row["review"], rel=1e-5)


def test_any_checkpoint_is_the_students(tools: Tools, run: Run, tmp_path: Path) -> None:
    """The same numbers through the distillation config and the plain one; upstream's tools: apis/test_export.py."""
    found: dict[str, Any] = {}
    for name, config in (("distillation", run.config), ("plain", run.plain)):
        out = tmp_path / f"{name}.pkl"
        ended = tools.test(config, run.checkpoint, "--work-dir", tmp_path / name, "--out", out)
        assert accuracy(ended) == accuracy(run.ended)
        found[name] = [sample["pred_score"] for sample in pickle.loads(out.read_bytes())]
    assert len(found["plain"]) == 25
    assert differences(found["distillation"], found["plain"]) == []
    metrics = tmp_path / "metrics.json"
    tools.test(run.plain, run.checkpoint, "--work-dir", tmp_path, "--out", metrics)
    assert json.loads(metrics.read_text()) == {"accuracy/top1": accuracy(run.ended)}


def test_a_distillation_ends_with_a_file_for_upstreams_tools(
    run: Run, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    model = init_model(str(run.folder / "student.py"), str(run.folder / "student.pth"), device="cpu")
    stored = {key: value for key, value in weights(run.checkpoint).items() if not key.startswith("distill.")}
    assert differences(dict(model.state_dict()), stored) == []
    printed = capsys.readouterr()
    assert "distill." not in printed.out + printed.err
    image = next((world.folder / "data" / "val").rglob("*.png"))
    (feature,) = FeatureExtractor(model)(str(image))
    assert feature[-1].shape == (64,)


def test_the_exits_are_trained_once(tools: Tools, run: Run, world: World, tmp_path: Path) -> None:
    (file,) = exits(run.folder)
    assert "training the exits of teacher 'teacher' for 3 epochs" in run.ended.out
    before = file.read_bytes()
    # A resumed run, and another student elsewhere with the folder as cache.
    resumed = tools.train(run.config, "--work-dir", run.folder, "--resume", "--cfg-options", "train_cfg.max_epochs=3")
    assert "resumed epoch: 2" in resumed.out
    other = world.distil("other_student.py", changes=exits_in(run.folder))
    elsewhere = tools.train(other, "--work-dir", tmp_path)
    line = tools.refused("train", world.plain, "--work-dir", tmp_path / "x", "--resume", tmp_path / "epoch_2.pth")
    assert "resume: the checkpoint is of a distillation, the config of the network alone: " in line
    for ended in (resumed, elsewhere):
        assert "training the exits" not in ended.out
        assert f"tensors from {file}" in ended.out
        assert "accuracy on the validation data: stage 1: " in ended.out
    assert exits(run.folder) == [file]
    assert exits(tmp_path) == []
    assert file.read_bytes() == before


def test_an_evaluation_with_augmentation_and_in_half_precision(tools: Tools, run: Run, tmp_path: Path) -> None:
    for option in ("--tta", "--amp"):
        ended = tools.test(run.config, run.checkpoint, "--work-dir", tmp_path / option.strip("-"), option)
        assert accuracy(ended) == pytest.approx(accuracy(run.ended), abs=13)


def test_resume_with_exits_of_another_shape_is_one_line(tools: Tools, run: Run, tmp_path: Path) -> None:
    change = ["--cfg-options", "model.recipe.exits.hidden=4"]
    line = tools.refused("train", run.config, "--work-dir", tmp_path, "--resume", run.checkpoint, *change)
    assert "the checkpoint's exits or connectors are not those of the config: " in line
    assert "(distill.exits.1.body.1.weight: (64, 16, 1, 1) in the file, (4, 16, 1, 1) in the network)" in line
