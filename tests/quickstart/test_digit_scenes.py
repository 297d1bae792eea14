"""Scenes of digits: a real VOC folder, always the same one, atomically."""

from pathlib import Path
from xml.etree import ElementTree

import mmcv
import numpy as np
import pytest
from mmdet.datasets import VOCDataset as UpstreamVOCDataset

from kd_mm.datasets import VOCDataset
from kd_mm.quickstart import scenes
from kd_mm.quickstart.digit_scenes import SIZE, DigitScenes, write_digit_scenes
from kd_mm.quickstart.scenes import draw_scene

COUNTS = {"train": 30, "val": 4, "test": 20}


@pytest.fixture(scope="module")
def devkit(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_digit_scenes(root, counts=COUNTS)
    return root


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def objects(folder: Path) -> list[ElementTree.Element]:
    files = sorted((folder / "Annotations").glob("*.xml"))
    return [found for file in files for found in ElementTree.parse(file).getroot().findall("object")]


def test_it_is_a_voc_folder(devkit):
    folder = devkit / "VOC2007"
    for split, count in COUNTS.items():
        names = (folder / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
        assert len(set(names)) == count
        for name in names:
            assert mmcv.imread(str(folder / "JPEGImages" / f"{name}.jpg")).shape == (*SIZE, 3)
            assert (folder / "Annotations" / f"{name}.xml").is_file()
    assert not list(devkit.glob(".VOC*"))


def test_boxes_lie_inside_and_apart(devkit):
    for file in (devkit / "VOC2007" / "Annotations").glob("*.xml"):
        boxes = [
            [int(found.find(f"bndbox/{key}").text) for key in ("xmin", "ymin", "xmax", "ymax")]
            for found in ElementTree.parse(file).getroot().findall("object")
        ]
        assert 1 <= len(boxes) <= 8
        for x1, y1, x2, y2 in boxes:
            assert 1 <= x1 <= x2 <= SIZE[1]
            assert 1 <= y1 <= y2 <= SIZE[0]
        for i, one in enumerate(boxes):
            for other in boxes[:i]:
                assert one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]


def test_objects_are_of_many_kinds(devkit):
    found = objects(devkit / "VOC2007")
    assert {item.find("name").text for item in found} == {str(digit) for digit in range(10)}
    difficult = [item for item in found if item.find("difficult").text == "1"]
    assert 0.05 < len(difficult) / len(found) < 0.3
    assert all(item.find("truncated").text == "1" or item.find("occluded").text == "1" for item in difficult)
    assert {"truncated", "occluded"} == {
        key for item in difficult for key in ("truncated", "occluded") if item.find(key).text == "1"
    }
    heights = [int(item.find("bndbox/ymax").text) - int(item.find("bndbox/ymin").text) + 1 for item in found]
    assert min(heights) < 24
    assert max(heights) > 36


def test_box_and_ink_agree(monkeypatch):
    """A digit that is one bright block fills its box: within the box one colour, on the row above it another."""
    monkeypatch.setattr(scenes, "OBJECTS", (1, 1))
    checked = 0
    for seed in range(40):
        image, (found,) = draw_scene(np.random.default_rng(seed), [np.full((8, 8), 255, np.uint8)], [7], SIZE)
        left, top, right, bottom = found.box
        if found.difficult or top < 3:
            continue
        checked += 1
        inside, above = image[top + 2 : bottom - 2, left + 2 : right - 2], image[top - 3 : top - 1, left:right]
        assert np.abs(inside.mean((0, 1)) - above.mean((0, 1))).max() > 15
        assert found.name == "7"
    assert checked > 3


def test_the_same_seed_draws_the_same_scenes_whatever_the_size_of_other_splits(devkit, tmp_path):
    write_digit_scenes(tmp_path / "again", counts=COUNTS)
    assert content(tmp_path / "again") == content(devkit)
    write_digit_scenes(tmp_path / "other", seed=1, counts=COUNTS)
    assert content(tmp_path / "other") != content(devkit)
    write_digit_scenes(tmp_path / "fewer", counts={**COUNTS, "train": 3})
    ours, all_of_it = content(tmp_path / "fewer"), content(devkit)
    assert all(ours[name] == all_of_it[name] for name in ours if "/test_" in name or "/train_" in name)


def test_the_data_set_reads_what_was_written(devkit):
    splits = {split: DigitScenes(split, str(devkit), counts=COUNTS, test_mode=True) for split in COUNTS}
    assert {split: len(dataset) for split, dataset in splits.items()} == COUNTS
    plain = UpstreamVOCDataset(
        data_root=str(devkit),
        ann_file="VOC2007/ImageSets/Main/test.txt",
        data_prefix={"sub_data_root": "VOC2007/"},
        metainfo={"classes": DigitScenes.METAINFO["classes"]},
        test_mode=True,
    )
    ours = splits["test"]
    assert isinstance(ours, VOCDataset)
    for one, other in zip(ours, plain, strict=True):
        assert [item["bbox"] for item in one["instances"]] == [item["bbox"] for item in other["instances"]]
        assert [item["ignore_flag"] for item in one["instances"]] == [
            item["ignore_flag"] for item in other["instances"]
        ]
    with pytest.raises(ValueError, match="split='tets' is unknown; .*did you mean 'test'"):
        DigitScenes("tets", str(devkit), counts=COUNTS)
