"""Imports kd_mm before a test module imports anything of upstream; lends the tools and the log to all tests."""

import gc
import itertools
import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.runner import loops
from mmengine.runner import runner as runner_module
from yapf.yapflib import yapf_api

import kd_mm  # noqa: F401

from .devices import DEVICES
from .helpers.tools import Tools, clean_engine

#: So many modules imported since the last time are set apart from the garbage collector.
MODULES = 200


#: Files that take longest: they come first, so that no worker is left with one at the end.
LONGEST = ("quickstart/test_run.py", "integration/*.py", "test_recipes_and_tasks.py", "test_packaging.py")


def pytest_configure() -> None:
    """Let tests interrupt runs where pytest itself was started in the background, with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    items.sort(key=lambda item: not any(item.path.match(pattern) for pattern in LONGEST))


class Imported:
    """Set apart what was imported: each data set of upstream has the garbage collector walk over all there is."""

    count = 0

    def freeze(self) -> None:
        if len(sys.modules) > self.count + MODULES:
            gc.collect()
            gc.freeze()
            self.count = len(sys.modules)


IMPORTED = Imported()


@pytest.fixture(autouse=True)
def own_engine() -> Iterator[None]:
    """Let no test depend on the default scope, the loggers or the process group of an earlier one."""
    IMPORTED.freeze()
    yield
    clean_engine()


class _NoPause:
    """In place of the module ``time`` in the engine's loops, which wait two seconds between passes over the data."""

    @staticmethod
    def sleep(seconds: float) -> None:
        """Return at once."""


class _Clock:
    """In place of the module ``time`` where a run is named: no two runs begin within the same second."""

    seconds = itertools.count(int(time.time()))
    strftime, localtime = time.strftime, time.localtime

    def time(self) -> float:
        """Return a time of its own for each call."""
        return float(next(self.seconds))


@pytest.fixture(scope="session", autouse=True)
def quick_runner() -> Iterator[None]:
    """Leave out what takes the engine seconds in each run and is of no effect here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner_module, "time", _Clock())
        patch.setattr(runner_module, "collect_env", dict)  # the report of the environment in the log
        patch.setattr(yapf_api, "FormatCode", lambda text, **options: (text, True))  # the layout of written configs
        patch.setattr(loops, "time", _NoPause)
        yield


@pytest.fixture
def constant_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill the weights of layers with a constant: random ones are half of the time that building takes."""
    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", lambda tensor, *_, **__: tensor.data.fill_(0.01))


@pytest.fixture(scope="session")
def cpu_tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return Tools(tmp_path_factory.mktemp("runs"), "cpu")


@pytest.fixture(scope="session", params=DEVICES)
def tools(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return Tools(tmp_path_factory.mktemp("runs"), request.param)


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
