"""A small folder in the layout of Pascal VOC, and the lines of the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def _recorded(level: int) -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler(level)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """Warnings in the log."""
    with _recorded(logging.WARNING) as lines:
        yield lines


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """All lines of the log, informative ones too."""
    with _recorded(logging.INFO) as lines:
        yield lines
