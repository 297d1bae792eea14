"""Imports kd_mm before a test module imports anything of upstream, which it mends; and lends the tools to all tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from yapf.yapflib import yapf_api

import kd_mm  # noqa: F401

from .devices import DEVICES
from .tools import Tools

# The layout of written configs takes seconds in each run and is of no effect here.
yapf_api.FormatCode = lambda text, **options: (text, True)


def pytest_collection_finish() -> None:
    """Set apart what was imported: each data set of upstream has the garbage collector walk over all there is."""
    gc.freeze()


@pytest.fixture(scope="session")
def cpu_tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    running = Tools(tmp_path_factory.mktemp("runs"), "cpu")
    yield running
    running.close()


@pytest.fixture(scope="session", params=DEVICES)
def tools(
    request: pytest.FixtureRequest, cpu_tools: Tools, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tools]:
    if request.param == "cpu":
        yield cpu_tools
        return
    running = Tools(tmp_path_factory.mktemp("runs"), request.param)
    yield running
    running.close()
