"""Market-1501 and folders in its layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from kd_mm.datasets import IdentitySampler, Market1501
from kd_mm.datasets.damaged_images import DamagedImageError
from kd_mm.datasets.market1501 import OFFICIAL_COUNTS

from ..helpers.errors import assert_refused
from ..helpers.market_folder import MarketFolder

PIPELINE = [{"type": "mmpretrain.LoadImageFromFile"}, {"type": "mmpretrain.PackInputs"}]


@pytest.fixture
def folder(tmp_path: Path) -> MarketFolder:
    return MarketFolder(tmp_path / "street").fill()


def read(folder: MarketFolder, split: str = "train", **options: object) -> Market1501:
    return Market1501(str(folder.root), split, **{"expected_counts": None, "pipeline": PIPELINE, **options})


def test_training_labels_follow_the_order_of_the_identities(folder: MarketFolder) -> None:
    data = read(folder)
    assert data.metainfo["dataset"] == "street"
    assert data.metainfo["classes"] == ("0002", "0004", "0006", "0008", "0010", "0012")
    infos = [data.get_data_info(index) for index in range(len(data))]
    assert len(infos) == 24
    assert all(info["pid"] == 2 * info["gt_label"] + 2 and info["role"] == "train" for info in infos)
    assert {info["camid"] for info in infos} == {1, 2}
    sample = data[5]["data_samples"]
    assert int(sample.gt_label) == data.get_data_info(5)["gt_label"]
    assert (sample.pid, sample.camid, sample.sample_idx) == (infos[5]["pid"], infos[5]["camid"], 5)
    assert sample.metainfo["img_path"] == infos[5]["img_path"]


def test_queries_come_before_the_gallery_without_junk(folder: MarketFolder, messages: list[str]) -> None:
    data = read(folder, "test")
    roles = [data.get_data_info(index)["role"] for index in range(len(data))]
    assert roles == ["query"] * 3 + ["gallery"] * 7
    assert [data.get_data_info(index)["pid"] for index in range(len(data))] == [1, 3, 5, 0, 1, 1, 3, 3, 5, 5]
    assert data.metainfo["num_junk"] == 2
    assert "classes" not in data.metainfo
    assert "gt_label" not in data[0]["data_samples"]
    assert (data[3]["data_samples"].pid, data[3]["data_samples"].role) == (0, "gallery")
    assert "3 queries of 3 identities; 7 gallery images, 1 of them distractors; 2 junk images left out" in messages[-1]
    assert len(messages) == 1
    assert len(read(folder, "query")) == 3
    assert len(read(folder, "gallery")) == 7
    assert_refused("IdentitySampler: the images have no gt_label .*split='train'", IdentitySampler, data)


def test_classes_give_the_order_of_identities(folder: MarketFolder) -> None:
    data = read(folder, metainfo={"classes": [12, 10, 8, 6, 4, 2, 99]})
    assert data.metainfo["classes"][:2] == ("0012", "0010")
    labels = {data.get_data_info(index)["pid"]: data.get_data_info(index)["gt_label"] for index in range(len(data))}
    assert labels == {12: 0, 10: 1, 8: 2, 6: 3, 4: 4, 2: 5}
    with pytest.raises(ValueError, match="classes lacks 5 of the 6 training identities: 0004, 0006, 0008, 0010 and 1"):
        read(folder, metainfo={"classes": ["0002"]})
    assert_refused("must be the numbers of identities", read, folder, metainfo={"classes": ["Ann"]})


def test_other_files_in_the_folders(folder: MarketFolder, warnings: list[str]) -> None:
    train = folder.root / "bounding_box_train"
    for name in ("Thumbs.db", "0002_c1s1_000009_00.gif"):
        (train / name).write_bytes(b"x")
    (train / "._0002_c1s1_000001_00.jpg").write_bytes(b"x")
    folder.add("bounding_box_train", 2, 3, suffix=".png")
    (train / "1501_C12_f0046182.JPG").write_bytes((folder.add("query", 9, 1)[0]).read_bytes())
    data = read(folder)
    assert len(data) == 26
    last = data.get_data_info(25)
    assert (last["pid"], last["camid"]) == (1501, 12)
    assert f"files of .gif in {train} are not read" in warnings[0]
    (train / "0002_c1s1_000099_00.jpg").symlink_to("/old/a.jpg")
    with pytest.raises(ValueError, match=r"_000099_00.jpg \(a link to /old/a.jpg, which is not there\)"):
        read(folder)


def test_wrong_number_of_images(folder: MarketFolder) -> None:
    for split in ("train", "query", "gallery"):
        count = {"train": 24, "query": 3, "gallery": 9}[split]
        with pytest.raises(
            ValueError, match=rf"holds {count} images, Market-1501 has {OFFICIAL_COUNTS[split]} there: .*None"
        ):
            Market1501(str(folder.root), split)
        assert len(read(folder, split, expected_counts={split: count})) == count - 2 * (split == "gallery")
        assert_refused(f"holds {count} images, street has 7 there", read, folder, split, expected_counts={split: 7})


def test_names_and_images_that_cannot_be_read(folder: MarketFolder, warnings: list[str]) -> None:
    path = folder.add("bounding_box_train", 2, 1)[0]
    path = path.rename(path.with_name("anna_camera1.jpg"))
    assert_refused(r"1 of 25 images of .*anna_camera1.jpg \(the name is not <identity>_c<camera>", read, folder)
    assert len(read(folder, on_error="skip")) == 24
    assert any("anna_camera1.jpg" in line for line in warnings)
    path.unlink()
    path = folder.add("bounding_box_train", 2, 1)[0]
    path.write_bytes(path.read_bytes()[:20] + b"\x00" * 300 + b"\xff\xd9")
    stopping, skipping = read(folder), read(folder, on_error="skip")
    index = next(i for i in range(len(stopping)) if stopping.get_data_info(i)["img_path"] == str(path))
    with pytest.raises(DamagedImageError, match=rf"{path.name}: it cannot be decoded"):
        stopping[index]
    assert skipping[index]["data_samples"].img_path != str(path)
    assert any(f"skipped {path}" in line for line in warnings)
    test = folder.add("query", 1, 2)[0]
    test.write_bytes(path.read_bytes())
    assert len(read(folder, "query", on_error="skip")) == 3
    assert_refused(rf"1 of 4 images of .*{test.name} \(it cannot be decoded", read, folder, "query")


def test_missing_folders_distractors_among_queries_and_wrong_options(folder: MarketFolder) -> None:
    folder.add("query", 0, 1)
    assert_refused("query has an identity numbered 0, which marks distractors", read, folder, "test")
    assert_refused("split='val' is unknown; choose one of 'train', 'query', 'gallery', 'test'", read, folder, "val")
    assert_refused("on_error='ignore' is unknown", read, folder, on_error="ignore")
    with pytest.raises(FileNotFoundError, match="Market-1501 not found: looked in .*nowhere"):
        Market1501(str(folder.root / "nowhere"))
    for path in (folder.root / "query").iterdir():
        path.unlink()
    assert_refused("query holds no image that can be used", read, folder, "test")
    folder.add("query", -1, 1)
    assert_refused("query holds junk alone: all of its 1 images are of identity -1", read, folder, "test")


def test_single_images_and_queries_without_a_match_are_logged(folder: MarketFolder, warnings: list[str]) -> None:
    folder.add("bounding_box_train", 77, 1)
    folder.add("query", 901, 1, 2)
    folder.add("query", 903, 1)
    assert len(read(folder)) == 25
    assert len(read(folder, "test")) == 13
    single, absent = warnings
    assert "street: 1 of 7 training identities have one image only (0077): it is its own positive" in single
    assert "street: 2 of 5 query identities are absent from the gallery (0901, 0903)" in absent
