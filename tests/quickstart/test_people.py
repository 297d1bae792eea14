"""Drawn people: a folder in the layout of Market-1501, always the same one, atomically."""

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from kd_mm.datasets import Market1501
from kd_mm.quickstart.people import CAMERAS, People, write_people
from kd_mm.quickstart.people_drawing import SIZE

from ..helpers.errors import assert_refused

IDENTITIES = {"train": 5, "val": 4, "test": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_people(tmp_path_factory.mktemp("people") / "here", identities=IDENTITIES)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def infos(folder: Path, split: str) -> list[dict]:
    data = People(str(folder), split, identities=IDENTITIES, test_mode=True)
    return [data.get_data_info(index) for index in range(len(data))]


def test_it_is_a_folder_in_the_layout_of_market_1501(folder):
    for part in ("train", "query", "gallery"):
        data = Market1501(str(folder), part, expected_counts=None)
        assert len(data) > 5
        for index in range(len(data)):
            with Image.open(data.get_data_info(index)["img_path"]) as image:
                assert (image.format, image.mode, image.size) == ("JPEG", "RGB", SIZE[::-1])


def test_identities_are_apart_and_are_recorded_by_two_cameras_or_more(folder):
    people = {split: {info["pid"] for info in infos(folder, split)} - {0} for split in IDENTITIES}
    assert {split: len(found) for split, found in people.items()} == IDENTITIES
    assert sum(map(len, people.values())) == len(set.union(*people.values()))
    assert_refused("split='tets' is unknown; .*did you mean 'test'", People, str(folder), "tets", identities=IDENTITIES)
    pairs = {(info["pid"], info["camid"]) for info in infos(folder, "train")}
    assert min(Counter(pid for pid, _ in pairs).values()) >= 2
    assert {camera for _, camera in pairs} == set(range(1, CAMERAS + 1))


def test_every_query_has_a_match_from_another_camera_and_strangers_stand_between(folder):
    for split in ("val", "test"):
        samples = infos(folder, split)
        gallery = [info for info in samples if info["role"] == "gallery"]
        queries = [info for info in samples if info["role"] == "query"]
        assert max(Counter((info["pid"], info["camid"]) for info in queries).values()) == 1
        for query in queries:
            assert any(one["pid"] == query["pid"] and one["camid"] != query["camid"] for one in gallery)
        strangers = sum(info["pid"] == 0 for info in gallery)
        assert strangers == pytest.approx(0.3 * (len(gallery) - strangers), abs=1)
    assert People(str(folder), "test", identities=IDENTITIES).metainfo["num_junk"] > 0


def test_the_same_seed_draws_the_same_people_and_another_others(folder, tmp_path):
    assert content(write_people(tmp_path / "again", identities=IDENTITIES)) == content(folder)
    others = content(write_people(tmp_path / "other", seed=1, identities=IDENTITIES))
    assert not set(others.values()) & set(content(folder).values())
