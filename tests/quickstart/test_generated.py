"""Folders of generated data that several processes ask for at once."""

from __future__ import annotations

import functools
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from kd_mm.quickstart.generated import write_once


def fill(drawn: Path, part: Path) -> None:
    with drawn.open("a") as file:
        print("once", file=file)
    time.sleep(0.2)
    (part / "picture").write_text("drawn")


def ask(folder: Path) -> str:
    write_once(folder, "note.json", {"seed": 0}, "these", functools.partial(fill, folder.parent.parent / "drawn"))
    return (folder / "picture").read_text()


def test_one_draws_while_the_others_wait(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, multiprocessing.get_context("fork")) as pool:
        assert list(pool.map(ask, [tmp_path / "data" / "here"] * 3)) == ["drawn"] * 3
    assert (tmp_path / "drawn").read_text().split() == ["once"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["here"]
