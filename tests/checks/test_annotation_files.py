"""Annotation files that upstream cannot read, each explained in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kd_mm.checks.annotation_files import explain_annotations, explain_steps

IMAGE = {"id": 0, "file_name": "a.jpg", "width": 64, "height": 48}
BOX = {"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12}
CATEGORY = {"id": 1, "name": "cat"}


def explained(folder: Path, **dataset: Any) -> str:
    with pytest.raises(ValueError, match="train_dataloader") as error:
        explain_annotations({"train_dataloader": {"dataset": {"data_root": str(folder), **dataset}}})
    assert "\n" not in str(error.value)
    return str(error.value)


def test_coco_files(tmp_path: Path) -> None:
    for changes, words in (
        (
            {"images": [{**IMAGE, "width": "64"}]},
            "1 of its 1 images have a 'width' that is not a number: in images",
        ),
        (
            {"annotations": [BOX, {**BOX, "bbox": []}]},
            "1 of its 2 annotations have a 'bbox' that is not a list of",
        ),
        ({"annotations": [{**BOX, "bbox": [1, 2, None, 4]}]}, "it is [1, 2, None, 4]"),
        ({"images": []}, "it lists no image"),
        ({"images": [{**IMAGE, "file_name": None}]}, "have a 'file_name' that is not text: in images of id 0"),
        ({"categories": [{**CATEGORY, "name": 7}]}, "have a 'name' that is not text: in categories of id 1 it is 7"),
        ({"categories": {"1": "cat"}}, "it has no list 'categories', as a COCO file has"),
    ):
        content = {"images": [IMAGE], "annotations": [BOX], "categories": [CATEGORY], **changes}
        (tmp_path / "a.json").write_text(json.dumps(content))
        assert words in explained(tmp_path, type="CocoDataset", ann_file="a.json")
    tasks = {"metainfo": {"tasks": ["size"]}, "data_list": [{"img_path": "a.jpg", "gt_label": {"size": 1}}]}
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    other = {"type": "mmpretrain.MultiTaskDataset", "data_root": str(tmp_path), "ann_file": "a.json"}
    explain_annotations({"train_dataloader": {"dataset": other}})  # JSON of another kind


def test_lists_of_labels(tmp_path: Path) -> None:
    for text, words in (
        ("path,label\na.png,0\n", "line 1 is 'path,label', of 2 lines 1 are no image and the number of its class"),
        ("a.png 0\nb.png cat\n", "line 2 is 'b.png cat', of 2 lines 1"),
        ("a.png 0.0\n", "line 1 is 'a.png 0.0'"),
        ("my a.png 0\nb.png\n", "line 2 is 'b.png'"),
        ("\n", "it is empty"),
    ):
        (tmp_path / "a.txt").write_text(text)
        assert f"{tmp_path}/a.txt: {words}" in explained(tmp_path, type="CustomDataset", ann_file="a.txt")


def test_steps_that_cannot_be_built() -> None:
    crop = {"type": "RandomCrop", "crop_size": "big"}
    inner = {"type": "CustomDataset", "pipeline": [{"type": "LoadImageFromFile"}, crop]}
    config = {"val_dataloader": {"dataset": {"type": "RepeatDataset", "dataset": inner}}, "default_scope": "mmpretrain"}
    key = r"val_dataloader\.dataset\.dataset\.pipeline\.1: RandomCrop\(crop_size='big'\) fails: AssertionError"
    with pytest.raises(ValueError, match=key):
        explain_steps(config)
