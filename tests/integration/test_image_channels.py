"""Images of one or four channels: distillation, stages, benchmark, export; a colour teacher of a grey student."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ..helpers.tools import Tools
from ..helpers.world import World

CHECKED = "default_hooks.teacher_check.min_score=0"

CHANNELS = """
_base_ = "plain.py"
data_preprocessor = dict(mean=[{mean}], std=[60.0], to_rgb=False)
model = dict(backbone=dict(in_channels={channels}))
load = [dict(type="LoadImageFromFile", color_type="{color}"), dict(type="PackInputs")]
train_dataloader = dict(dataset=dict(data_root=r"{data}", pipeline=load))
val_dataloader = dict(dataset=dict(data_root=r"{data}", pipeline=load))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1)
"""


@pytest.fixture(scope="module")
def images(world: World) -> Path:
    """Folders of images with four channels."""
    rng, root = np.random.default_rng(0), world.folder / "four"
    for split in ("train", "val"):
        for number, name in enumerate(("blue", "green", "red")):
            (root / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 90, (20, 20, 4)) + 80 * np.eye(3, 4)[number]
                Image.fromarray(pixels.astype(np.uint8), "RGBA").save(root / split / name / f"{i}.png")
    return root


def config(world: World, images: Path, channels: int) -> Path:
    data, color = (images, "unchanged") if channels == 4 else (world.folder / "data", "grayscale")
    mean = ", ".join(["120.0"] * (4 if channels == 4 else 1))
    text = CHANNELS.format(mean=mean, channels=channels, color=color, data=data)
    return world.write(f"channels{channels}.py", text)


@pytest.mark.parametrize("channels", [1, 4])
def test_student_and_teacher_of_any_channels(tools: Tools, world: World, images: Path, channels: int) -> None:
    plain = config(world, images, channels)
    tools.train(plain, "--work-dir", world.folder / f"plain{channels}")
    checkpoint = world.folder / f"plain{channels}" / "epoch_1.pth"
    for recipe in ("mtkd_ssr", "ofd"):
        distil = world.distil(f"{recipe}{channels}.py", recipe, plain=plain.name)
        teacher = [f"model.teacher.config={plain}", f"model.teacher.checkpoint={checkpoint}"]
        work = world.folder / f"{recipe}{channels}"
        tools.train(distil, "--work-dir", work, "--cfg-options", *teacher, CHECKED)
        assert (work / "epoch_1.pth").is_file()
    dumped = work / f"ofd{channels}.py"
    for tool, arguments in (
        ("stages", [dumped]),
        ("export_student", [dumped, work / "epoch_1.pth", work / "student.pth", "--onnx"]),
        ("benchmark", [dumped, "--rounds", 1, "--batch-size", 2]),
    ):
        tools.succeeds(tool, *arguments)
    stored = torch.load(work / "student.pth", weights_only=True)["state_dict"]
    assert stored["backbone.stem.conv.weight"].shape[1] == channels


def test_grey_and_colour_do_not_fit_unless_that_is_asked_for(tools: Tools, world: World, images: Path) -> None:
    distil = world.distil("grey_kd.py", "kd", plain=config(world, images, 1).name)
    work, options = world.folder / "grey_kd", ["--work-dir", world.folder / "grey_kd", "--cfg-options", CHECKED]
    line = tools.refused("train", distil, *options)
    assert "teacher 'teacher' takes images of 3 channels, the student of 1: model.teacher.repeat_grey=True" in line
    tools.train(distil, *options, "model.teacher.repeat_grey=True")
    assert (work / "epoch_1.pth").is_file()
    for view in ([], ["--all"]):
        assert "input 3 x " in tools.succeeds("stages", work / "grey_kd.py", *view).out
    grey = config(world, images, 1)
    distil = world.distil("colour_kd.py", "kd", "model = dict(teacher=dict(random_weights=True, checkpoint=None))")
    line = tools.refused("train", distil, "--cfg-options", f"model.teacher.config={grey}", CHECKED)
    assert "teacher 'teacher' takes images of 1 channels, the student of 3" in line
