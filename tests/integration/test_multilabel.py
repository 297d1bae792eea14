"""Images of several labels, from the annotation file to the metric."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ..helpers.tools import Tools, refused
from ..helpers.world import CLASSES, World

PLAIN = """
_base_ = "plain.py"
pipeline = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]
data = dict(_delete_=True, type="MultiLabelDataset", data_root=r"{root}", data_prefix="images", pipeline=pipeline)
train_dataloader = dict(dataset=dict(**data, ann_file="train.json"))
val_dataloader = dict(dataset=dict(**data, ann_file="val.json"))
test_dataloader = val_dataloader
val_evaluator = [dict(type="AveragePrecision"), dict(type="MultiLabelMetric", thr=0.5)]
test_evaluator = val_evaluator
model = dict(head=dict(_delete_=True, type="MultiLabelLinearClsHead", num_classes=3, in_channels=32))
train_cfg = dict(max_epochs=1)
"""


@pytest.fixture(scope="module")
def plain(world: World, tools: Tools) -> Path:
    """A plain config; its teacher is trained."""
    rng, root = np.random.default_rng(1), world.folder / "several"
    (root / "images").mkdir(parents=True)
    for split, count in (("train", 72), ("val", 40)):
        samples = []
        for number in range(count):
            present = rng.random(3) < (0.3, 0.5, 0.7)
            image = rng.integers(40, 160, (20, 20, 3)) + 60 * present[::-1]
            name = f"{split}{number}.png"
            Image.fromarray(image.astype(np.uint8)).save(root / "images" / name)
            samples.append({"img_path": name, "gt_label": np.flatnonzero(present).tolist()})
        content = {"metainfo": {"classes": CLASSES}, "data_list": samples}
        (root / f"{split}.json").write_text(json.dumps(content))
    config = world.write("several.py", PLAIN.format(root=root))
    trained = '_base_ = "several.py"\nmodel = dict(backbone=dict(depth=14))\ntrain_cfg = dict(max_epochs=4)\n'
    work = world.folder / "several_teacher"
    tools.train(world.write("several_teacher.py", trained), "--work-dir", work)
    return config


def arguments(world: World, plain: Path, recipe: str, name: str = "epoch_4.pth") -> list[object]:
    teacher = world.folder / "several_teacher.py"
    checkpoint = ["--teacher-checkpoint", world.folder / "several_teacher" / name]
    return [plain, "--distiller", recipe, "--teacher", teacher, *checkpoint, "--work-dir", world.folder / "out"]


def test_several_labels_are_distilled(tools: Tools, world: World, plain: Path) -> None:
    ended = tools.train(*arguments(world, plain, "mtkd_ssr"))
    assert "% of the first 40 validation images (area under" in ended.out
    assert "area under the ROC curve on the validation data: stage 1: " in ended.out
    assert "multi-label/mAP" in ended.out


def test_what_does_not_fit_several_labels_stops(tools: Tools, world: World, plain: Path) -> None:
    ended = tools.run("train", *arguments(world, plain, "dkd"))
    refused(ended, "'dkd' (DKDLoss)", "the student's head is multi-label", "take kd_mm.KDLoss")
    single = "head=dict(_delete_=True, type='LinearClsHead', num_classes=3, in_channels=32)"
    single = world.write("single.py", f"_base_ = 'several.py'\nmodel = dict({single})\n")
    ended = tools.run("train", single, "--work-dir", world.folder / "single")
    refused(ended, "train_dataloader", "have several labels, and the head takes one", "MultiLabelLinearClsHead")
    stored = torch.load(world.folder / "several_teacher" / "epoch_4.pth", weights_only=False)
    torch.manual_seed(0)
    for value in stored["state_dict"].values():
        if value.is_floating_point():
            value.normal_().abs_()
    torch.save(stored, world.folder / "several_teacher" / "noise.pth")
    ended = tools.run("train", *arguments(world, plain, "kd", "noise.pth"))
    line = "on the first 40 validation images (area under the ROC curve), chance is 50.0%"
    refused(ended, line)
    assert line in tools.train(*arguments(world, plain, "at", "noise.pth")).out


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1, 1, 0], "train_dataloader: the labels of an image are [1, 1, 0], a mark for each class: give the numbers"),
        (["red"], "train0.png: its label is ['red']: give the numbers of classes, not their names"),
    ],
)
def test_labels_that_are_no_numbers_of_classes(
    tools: Tools, world: World, plain: Path, labels: list[object], words: str
) -> None:
    content = json.loads((world.folder / "several" / "train.json").read_text())
    content["data_list"] = [{**sample, "gt_label": labels} for sample in content["data_list"]]
    (world.folder / "several" / "marks.json").write_text(json.dumps(content))
    option = "train_dataloader.dataset.ann_file=marks.json"
    refused(tools.run("train", plain, "--work-dir", world.folder / "out", "--cfg-options", option), words)
