"""Folders of generated data: written atomically and once, kept, never mixed with other data."""

import functools
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kd_mm.quickstart.digit_scenes import write_digit_scenes
from kd_mm.quickstart.generated import write_once
from kd_mm.quickstart.people import write_people

from ..helpers.errors import assert_refused

SCENES = functools.partial(write_digit_scenes, counts={"train": 2, "val": 1, "test": 1})
PEOPLE = functools.partial(write_people, identities={"train": 2, "val": 2, "test": 2})


def fill(log: Path, part: Path) -> None:
    with log.open("a") as file:
        print("once", file=file)
    time.sleep(0.2)
    (part / "picture").write_text("drawn")


def ask(folder: Path) -> str:
    write_once(folder, "note.json", {"seed": 0}, "these", functools.partial(fill, folder.parent.parent / "log"))
    return (folder / "picture").read_text()


def test_one_process_writes_while_the_others_wait(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, multiprocessing.get_context("fork")) as pool:
        assert list(pool.map(ask, [tmp_path / "data" / "here"] * 3)) == ["drawn"] * 3
    assert (tmp_path / "log").read_text().split() == ["once"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["here"]


def test_a_failed_writing_leaves_nothing(tmp_path: Path) -> None:
    def full_disk(part: Path) -> None:
        (part / "picture").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_once(tmp_path / "here", "note.json", {}, "these", full_disk)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("write", "name", "what"), [(SCENES, "VOC2007", "these scenes"), (PEOPLE, ".", "these people")]
)
def test_a_folder_is_kept_and_other_data_are_not_overwritten(
    write: Callable[..., Any], name: str, what: str, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    write(root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    write(root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert_refused(f"holds other data than {what}; remove it or give another data_root", write, root, seed=5)
    (tmp_path / "foreign" / name).mkdir(parents=True)
    assert_refused("holds other data", write, tmp_path / "foreign")
    assert not list((tmp_path / "foreign" / name).iterdir())
