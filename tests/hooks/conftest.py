"""Trainings in processes of their own, and what tests ask of a run that was killed and resumed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ..helpers.tools import forked
from . import training


class TrainingServer:
    """Runs ``training.py``, on the CPU, where hooks promise what they promise bit by bit."""

    def __init__(self, logs: Path) -> None:
        self.logs, self.numbers = logs, itertools.count()

    def run(self, work_dir: Path, **job: Any) -> int:
        """Train; the exit status, negative for a signal."""
        work_dir.mkdir(parents=True, exist_ok=True)
        logs = self.logs / str(next(self.numbers))
        logs.mkdir()
        asked = {"work_dir": str(work_dir), **job}
        hidden = {"CUDA_VISIBLE_DEVICES": ""}
        return forked(training.main, asked, logs=logs, env=hidden, ranks=job.get("world_size", 1)).status

    def finish(self, work_dir: Path, **job: Any) -> dict:
        """Train to the end; the final state."""
        status = self.run(work_dir, **job)
        assert status == 0, (work_dir / "output").read_text()[-3000:]
        return final(work_dir)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> TrainingServer:
    return TrainingServer(tmp_path_factory.mktemp("trainings"))


def final(work_dir: Path, rank: int = 0) -> dict:
    """The state at the end of a run."""
    return torch.load(work_dir / f"final{rank}.pt", weights_only=False)


def differences(left: Any, right: Any, where: str = "") -> list[str]:
    """Where two nested states differ, tensors compared bit for bit."""
    if type(left) is not type(right):
        return [f"{where}: {type(left)} and {type(right)}"]
    if isinstance(left, torch.Tensor):
        return [] if left.dtype == right.dtype and torch.equal(left, right) else [where]
    if isinstance(left, dict):
        if left.keys() != right.keys():
            return [f"{where}: keys {left.keys() ^ right.keys()}"]
        return [d for key in left for d in differences(left[key], right[key], f"{where}.{key}")]
    if isinstance(left, (list, tuple)):
        if len(left) != len(right):
            return [f"{where}: lengths {len(left)} and {len(right)}"]
        return [d for i, pair in enumerate(zip(left, right, strict=True)) for d in differences(*pair, f"{where}[{i}]")]
    return [] if left == right else [f"{where}: {left!r} and {right!r}"]


def trace(work_dir: Path) -> list[list]:
    """(epoch, iteration, index in the epoch, loss) of each iteration, in the order done."""
    return [json.loads(line) for line in (work_dir / "trace0").read_text().splitlines()]


def same_iterations(work_dir: Path, reference: Path) -> bool:
    """Every iteration of a run, those done again included, is an iteration of the reference; none is missing."""
    done, expected = {tuple(row) for row in trace(work_dir)}, {tuple(row) for row in trace(reference)}
    return done == expected
