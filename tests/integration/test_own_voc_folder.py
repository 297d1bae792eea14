"""The page on detection, done: its configs on a folder of one's own with other class names, trained and distilled."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from mmdet.apis import DetInferencer, init_detector

from ..helpers.compare import weights
from ..helpers.tools import Tools, failed
from ..helpers.voc_folder import COLORS, VOCFolder, draw_shapes
from ..helpers.world import ROOT

PAGE = ROOT / "configs" / "detection" / "README.md"

#: Written below the page's config: small images, a small network that starts from nothing, one epoch.
SMALL = """
_base_ = "./{page}.py"
model = dict(
    backbone=dict(base_channels=8, stem_channels=8, norm_eval=False, init_cfg=None),
    neck=dict(in_channels={widths}, out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16), bbox_head=dict(in_channels=16, fc_out_channels=32)
    ),
)
loading = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(64, 64), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
here = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=loading))
train_dataloader = dict(batch_size=4, **here)
val_dataloader = here
test_dataloader = here
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
visualizer = dict(_delete_=True, type="DetLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")])
"""
WIDTHS = {"cells_r18": [8, 16, 32, 64], "cells_r50": [32, 64, 128, 256]}


class Own:
    """A user's folder: images, XML, lists, and the two configs of the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        data = VOCFolder(folder, year="cells")
        draw_shapes(data, "train", 12, seed=0)
        draw_shapes(data, "val", 4, seed=1)
        student, teacher = (code for code in code_of(PAGE, "python") if "_base_" in code)
        for on_page, here in (('"data/cells/"', repr(str(data.folder))), ('("red", "white", "platelet")', classes())):
            assert on_page in student
            student = student.replace(on_page, here)
        (folder / "cells_r18.py").write_text(student)
        (folder / "cells_r50.py").write_text(teacher)
        self.student, self.teacher = (self.small(name) for name in ("cells_r18", "cells_r50"))

    def small(self, page: str) -> Path:
        path = self.folder / f"small_{page}.py"
        path.write_text(SMALL.format(page=page, widths=WIDTHS[page.replace("wrong", "r18")]))
        return path


def classes() -> str:
    return repr(tuple(COLORS))


def code_of(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def rows(folder: Path) -> list[dict[str, Any]]:
    (log,) = folder.glob("*/vis_data/scalars.json")
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Own:
    return Own(tmp_path_factory.mktemp("own"))


def test_a_teacher_and_a_student_that_learns_from_it(
    tools: Tools, own: Own, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, distilled = own.folder / "plain", own.folder / "distilled"
    ended = tools.train(own.teacher, "--work-dir", plain, "--auto-scale-lr")
    assert len([row for row in rows(plain) if "loss" in row]) == 3
    assert all(re.search(rf"\b{name}\b", ended.out) for name in COLORS)
    checkpoint = plain / "epoch_1.pth"
    assert weights(checkpoint)["roi_head.bbox_head.fc_cls.weight"].shape == (4, 32)

    options = ["--distiller", "mtkd_ssr", "--teacher", own.teacher, "--teacher-checkpoint", checkpoint]
    short = ["model.recipe.teacher_exits.epochs=1", "model.recipe.teacher_exits.milestones=[]"]
    unchecked = "default_hooks.teacher_check.min_score=0"  # after three steps it knows nothing
    tools.train(own.student, "--work-dir", distilled, *options, "--cfg-options", *short, unchecked)
    first = next(row for row in rows(distilled) if "loss" in row)
    assert {"loss_aux", "loss_scd", "loss_srd", "loss_review"} <= set(first)
    (scores,) = [row for row in rows(distilled) if "voc07/mAP" in row]
    assert {"voc12/mAP", "coco/mAP", "coco/AP50"} <= set(scores)

    tested = tools.test(own.student, distilled / "epoch_1.pth", "--work-dir", own.folder / "tested")
    assert f"voc07/mAP: {scores['voc07/mAP']:.4f}" in tested.out
    augmented = tools.test(own.student, distilled / "epoch_1.pth", "--tta", "--work-dir", own.folder / "tested")
    assert "coco/mAP: " in augmented.out

    student, image = distilled / "student.pth", next(own.folder.rglob("*.jpg"))
    inferencer = DetInferencer(str(student.with_suffix(".py")), str(student), device="cpu", show_progress=False)
    init_detector(str(own.student), str(student), device="cpu")
    printed = capsys.readouterr()
    assert "distill." not in printed.out + printed.err
    inferencer(str(image), out_dir=str(own.folder / "drawn"))
    assert (own.folder / "drawn" / "vis" / image.name).is_file()

    later = time.time() + 60
    os.utime(image, (later, later))  # as one that was replaced
    again = tools.train(own.student, "--work-dir", distilled, *options, "--cfg-options", *short, unchecked)
    assert f"images were changed after it was written ({image}): remove it" in again.out


def test_a_teacher_that_is_trained_with_its_exits(tools: Tools, own: Own) -> None:
    teacher, distilled = own.folder / "with_exits", own.folder / "joint"
    tools.train(own.teacher, "--with-exits", "--work-dir", teacher)
    options = ["--distiller", "mtkd_ssr", "--teacher", own.teacher, "--teacher-checkpoint", teacher / "epoch_1.pth"]
    unchecked = "default_hooks.teacher_check.min_score=0"
    ended = tools.train(own.student, "--work-dir", distilled, *options, "--cfg-options", unchecked)
    assert "exits of teacher 'teacher': loaded" in ended.out
    assert re.search(r"of the validation data: stage 1: [\d.]+% \(chance [\d.]+%\), stage 2: ", ended.out)


def test_class_names_that_are_not_in_the_folder(tools: Tools, own: Own) -> None:
    text = (own.folder / "cells_r18.py").read_text()
    (own.folder / "cells_wrong.py").write_text(text.replace(classes(), repr(tuple(map(str.title, COLORS)))))
    line = tools.refused("train", own.small("cells_wrong"), "--work-dir", own.folder / "wrong")
    assert "the annotations have " in line
    assert "the class list is Square, Disc, Bar" in line
    assert not list((own.folder / "wrong").rglob("*.pth"))


def test_an_image_damaged_in_the_middle_is_named(tools: Tools, own: Own) -> None:
    image = own.folder / "cells" / "JPEGImages" / "train007.jpg"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2] + b"\xff\xd9")
    skip = ["--cfg-options", "train_dataloader.dataset.on_error=skip"]
    try:
        stopped = tools.run("train", own.teacher, "--work-dir", own.folder / "stopped")
        skipping = tools.train(own.teacher, "--work-dir", own.folder / "skipping", *skip)
    finally:
        image.write_bytes(content)
    assert failed(stopped).startswith(
        f"error: {image}: Corrupt JPEG data: premature end of data segment; repair it or take it out"
    )
    assert f"skipped {image}: Corrupt JPEG data: premature end of data segment; 1 so far" in skipping.out
    assert "Corrupt" not in skipping.err.replace(f"skipped {image}", "")
