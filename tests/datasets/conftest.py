"""A small folder in the layout of Pascal VOC."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..helpers.voc_folder import CAT, DOG, VOCFolder


@pytest.fixture
def voc(tmp_path: Path) -> VOCFolder:
    folder = VOCFolder(tmp_path / "VOCdevkit")
    folder.add("a", CAT)
    folder.add("b", CAT, DOG)
    folder.add("c", DOG)
    folder.split("train", ["a", "b", "c"])
    return folder
