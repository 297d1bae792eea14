"""What is found in the images of a data set before a run begins."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from unittest import mock

import mmpretrain.datasets as mmpretrain
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.registry import TRANSFORMS, DefaultScope
from PIL import Image

from kd_mm.checks import data, shared_samples
from kd_mm.checks.annotation_files import no_object
from kd_mm.checks.classes import check_numbering
from kd_mm.checks.data import check_data
from kd_mm.checks.shared_samples import check_shared


def read(
    folder: Path,
    name: str = "a.png",
    categories: tuple[str, ...] = ("cat",),
    classes: tuple[str, ...] = ("cat",),
    masks: dict[str, Any] | None = None,
    **box: Any,
) -> CocoDataset:
    """A COCO data set of one image of 64 x 48 pixels with one box, and options of the step that loads masks."""
    folder.mkdir(exist_ok=True)
    if not (folder / "a.png").exists():
        Image.new("RGB", (64, 48)).save(folder / "a.png")
    content = {
        "images": [{"id": 0, "file_name": name, "width": 64, "height": 48}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 400, **box}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(categories, 1)],
    }
    (folder / "a.json").write_text(json.dumps(content))
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True, **(masks or {})},
        {"type": "PackDetInputs"},
    ]
    files = {"ann_file": str(folder / "a.json"), "data_prefix": {"img": str(folder)}}
    with DefaultScope.overwrite_default_scope("mmdet"):
        return CocoDataset(**files, metainfo={"classes": classes}, pipeline=pipeline)


def test_boxes_out_of_their_image(tmp_path: Path) -> None:
    """Corners for widths and heights, or boxes of another image."""
    with mock.patch.object(data, "warn") as log:
        assert len(check_data("train_dataloader", read(tmp_path))) == 1
        log.assert_not_called()
        check_data("train_dataloader", read(tmp_path, bbox=[30, 20, 60, 40]))
    assert "1 boxes of 1 of 1 images looked at reach out of their image" in log.call_args.args[0]
    assert "(COCO: left, top, width, height)" in log.call_args.args[0]


@pytest.mark.parametrize(
    ("segmentation", "decoded", "fault"),
    [
        ([[4, 4, 24, 24]], True, "without a polygon of three points or more"),
        ([[0.1, 0.1, 0.4, 0.1, 0.4, 0.5]], True, "with polygons outside of their box (are they in pixels?)"),
        ({"size": [64, 48], "counts": [200, 20, 2852]}, True, "with run lengths whose 'size' is not [height, width]"),
        ({"size": [48, 64], "counts": [200, 20, 2852]}, False, "with run lengths, which poly2mask=False leaves out"),
        ({"size": [48, 64], "counts": [200, 20, 2852]}, True, ""),
        ([[4, 4, 24, 4, 24, 24]], False, ""),
    ],
)
def test_masks_that_upstream_leaves_out(tmp_path: Path, segmentation: Any, decoded: bool, fault: str) -> None:
    dataset = read(tmp_path, masks={"with_mask": True, "poly2mask": decoded}, segmentation=segmentation)
    if not fault:
        assert len(check_data("train_dataloader", dataset)) == 1
        return
    line = f"train_dataloader: of 1 objects looked at there are 1 {fault}"
    with pytest.raises(ValueError, match=re.escape(line) + ".*a.png"):
        check_data("train_dataloader", dataset)


def test_steps_of_an_evaluation_that_draw_at_random(tmp_path: Path) -> None:
    """CenterNet's crop draws in training alone."""
    options = {"type": "mmdet.RandomCenterCropPad", "mean": [0, 0, 0], "std": [1, 1, 1], "to_rgb": True}
    kept = {"test_mode": True, "crop_size": None, "ratios": None, "border": None, "test_pad_mode": ["logical_or", 31]}
    for drawn, changes in ((False, kept), (True, {"crop_size": (32, 32), "test_pad_mode": None})):
        dataset = read(tmp_path)
        dataset.pipeline.transforms[0].to_float32 = True
        dataset.pipeline.transforms.insert(2, TRANSFORMS.build({**options, **changes}))
        with mock.patch.object(data, "warn") as log:
            check_data("val_dataloader", dataset)
        lines = [call.args[0] for call in log.call_args_list]
        assert any("val_dataloader: RandomCenterCropPad draws at random" in line for line in lines) == drawn


def test_images_of_an_evaluation_that_are_trained_on(tmp_path: Path) -> None:
    """By their path, as copies of a file, or by their pixels where the data set holds these."""
    arrays = [np.full((2, 2, 3), value, np.uint8) for value in range(3)]
    pixels = [
        mmpretrain.CIFAR10(data_root=str(tmp_path), split="test", test_mode=True, lazy_init=True) for _ in range(2)
    ]
    for dataset, chosen in zip(pixels, (arrays[:2], arrays[1:]), strict=True):
        dataset.load_data_list = lambda chosen=chosen: [{"img": image, "gt_label": 0} for image in chosen]
        dataset.full_init()
    with mock.patch.object(shared_samples, "warn") as log:
        other = read(tmp_path / "other")
        Image.new("RGB", (64, 48), "red").save(tmp_path / "other" / "a.png")
        check_shared("val_dataloader", other, read(tmp_path))
        log.assert_not_called()
        check_shared("val_dataloader", read(tmp_path), read(tmp_path))
        (tmp_path / "link").symlink_to(tmp_path)
        check_shared("val_dataloader", read(tmp_path / "link"), read(tmp_path))
        check_shared("test_dataloader", *pixels)
        (tmp_path / "other" / "a.png").write_bytes((tmp_path / "a.png").read_bytes())
        check_shared("val_dataloader", other, read(tmp_path))
    first, linked, second, copied = (call.args[0] for call in log.call_args_list)
    assert linked == first
    assert f"val_dataloader: 1 of 1 images ({tmp_path / 'other' / 'a.png'}) are in the training data too" in copied
    assert f"val_dataloader: 1 of 1 images ({tmp_path / 'a.png'}) are in the training data too: figures on" in first
    assert "test_dataloader: 1 of 2 images are in the training data too" in second


def test_width_and_height_in_another_order(tmp_path: Path) -> None:
    for scale, count in (((64, 48), 0), ((48, 64), 1)):
        dataset = read(tmp_path)
        dataset.pipeline.transforms.insert(2, TRANSFORMS.build({"type": "mmdet.Resize", "scale": scale}))
        with mock.patch.object(data, "warn") as log:
            check_data("train_dataloader", dataset)
        assert [call.args[0] for call in log.call_args_list] == count * [
            "train_dataloader: the pipeline exchanges width and height of the first images: scale of Resize is "
            "(width, height)"
        ]


def test_files_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "b.png").mkdir()
    with pytest.raises(FileNotFoundError, match=r"b\.png is a folder, not an image \(missing are 1 of 1"):
        check_data("train_dataloader", read(tmp_path, "b.png"))
    with pytest.raises(FileNotFoundError, match="write / for the backslashes in the annotations"):
        check_data("train_dataloader", read(tmp_path, "images\\c.png"))
    for name, there in (("b%20b.png", "b b.png"), ("0123abcd-c.png", "c.png")):
        Image.new("RGB", (64, 48)).save(tmp_path / there)
        with pytest.raises(
            FileNotFoundError, match=f"{name} does not exist .*, but {tmp_path}/{there} does: name it so"
        ):
            check_data("train_dataloader", read(tmp_path, name))
    Image.new("RGB", (64, 48)).save(tmp_path / "\xf6.png")
    with pytest.raises(
        FileNotFoundError, match=r"but '\\xf6.png', whose accents are other characters, does: name it so"
    ):
        check_data("train_dataloader", read(tmp_path, "o\u0308.png"))
    content = (tmp_path / "a.png").read_bytes()
    for damage, words in (
        (b"", "it is empty"),
        (content[: len(content) // 2], "truncated|incomplete"),
        (b"<html>", "no image"),
    ):
        (tmp_path / "a.png").write_bytes(damage)
        with pytest.raises(
            ValueError, match=f"train_dataloader: 1 of 1 images looked at are damaged: .*a.png .*({words})"
        ):
            check_data("train_dataloader", read(tmp_path))


def test_annotations_without_an_object(tmp_path: Path) -> None:
    for changes, words in (
        ({"image_id": "0"}, "has the id of one of its images: image_id is '0' and so on, the images have 0"),
        ({"category_id": 7}, "has the id of one of its categories: category_id is 7 and so on, the categories have 1"),
        ({"bbox": [0.1, 0.1, 0.5, 0.5]}, "there are 1 narrower or lower than a pixel: write bbox in pixels"),
        ({"categories": ("cat ",)}, "names in the annotations have blanks at their ends ('cat '): remove them"),
    ):
        assert words in no_object(read(tmp_path, **changes), 1)


def test_names_that_are_there_twice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train: the class list names dog twice \(cat, dog, dog\)"):
        check_numbering("train", read(tmp_path, classes=("cat", "dog", "dog")))
    with pytest.raises(ValueError, match=r"a\.json has two categories of the name 'cat': make them one"):
        check_numbering("train", read(tmp_path, categories=("cat", "cat")))
