"""A small folder in the layout of Pascal VOC, and what is said about it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from mmengine.logging import MMLogger

from ..helpers.voc_folder import CAT, DOG, VOCFolder


@pytest.fixture
def voc(tmp_path: Path) -> VOCFolder:
    folder = VOCFolder(tmp_path / "VOCdevkit")
    folder.add("a", CAT)
    folder.add("b", CAT, DOG)
    folder.add("c", DOG)
    folder.split("train", ["a", "b", "c"])
    return folder


@pytest.fixture
def said() -> Any:
    """What goes into the log, one entry a line."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
