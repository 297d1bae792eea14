"""Imports kd_mm before a test module imports anything of upstream, which it mends; and lends the tools to all tests."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
from mmengine.config import utils as config_utils

import kd_mm  # noqa: F401

from .devices import DEVICES
from .tools import Tools

# For each name in `mmdet::` or `mmpretrain::` upstream reads the hundred index files of the package again, which is
# three quarters of reading a config; here once.
config_utils.load = functools.cache(config_utils.load)


@pytest.fixture(scope="session", params=DEVICES)
def tools(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    running = Tools(tmp_path_factory.mktemp("runs"), request.param)
    yield running
    running.close()
