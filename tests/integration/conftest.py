"""A small world to run the tools in."""

from __future__ import annotations

import pytest

from ..helpers.tools import Tools
from ..helpers.world import World


@pytest.fixture(scope="session")
def world(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Data, configs, and a teacher that was trained with its plain config."""
    made = World(tmp_path_factory.mktemp("world"))
    tools.train(made.teacher, "--work-dir", made.folder / "teacher")
    (made.folder / "teacher" / "epoch_6.pth").rename(made.checkpoint)
    return made
