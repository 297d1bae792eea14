"""Imports kd_mm before a test module imports anything of upstream; lends the tools to all tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from mmengine.runner import loops
from mmengine.runner import runner as runner_module
from yapf.yapflib import yapf_api

import kd_mm  # noqa: F401

from .devices import DEVICES
from .helpers.tools import Tools


def pytest_collection_finish() -> None:
    """Set apart what was imported: each data set of upstream has the garbage collector walk over all there is."""
    gc.freeze()


class _NoPause:
    """In place of the module ``time`` in the engine's loops, which wait two seconds between passes over the data."""

    @staticmethod
    def sleep(seconds: float) -> None:
        """Return at once."""


@pytest.fixture(scope="session", autouse=True)
def quick_runner() -> Iterator[None]:
    """Leave out what takes the engine seconds in each run and is of no effect here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner_module, "collect_env", dict)  # the report of the environment in the log
        patch.setattr(yapf_api, "FormatCode", lambda text, **options: (text, True))  # the layout of written configs
        patch.setattr(loops, "time", _NoPause)
        yield


@pytest.fixture(scope="session")
def cpu_tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return Tools(tmp_path_factory.mktemp("runs"), "cpu")


@pytest.fixture(scope="session", params=DEVICES)
def tools(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return Tools(tmp_path_factory.mktemp("runs"), request.param)
