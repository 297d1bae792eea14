"""The training server, and what tests ask of a run that was killed and resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ..tools import environment

KILLED = -9


class TrainingServer:
    def __init__(self) -> None:
        # What hooks promise bit by bit they promise on the CPU.
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("training_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(CUDA_VISIBLE_DEVICES=""),
        )
        assert self._answer() == "ready"

    def _answer(self) -> str:
        for line in self.process.stdout:
            if line.startswith("> "):
                return line[2:].strip()
        raise RuntimeError("the training server ended")

    def run(self, work_dir: Path, **job: Any) -> int:
        """Train; the exit status, negative for a signal."""
        self.process.stdin.write(json.dumps({"work_dir": str(work_dir), **job}) + "\n")
        self.process.stdin.flush()
        return int(self._answer())

    def finish(self, work_dir: Path, **job: Any) -> dict:
        """Train to the end; the final state."""
        status = self.run(work_dir, **job)
        assert status == 0, (work_dir / "output").read_text()[-3000:]
        return final(work_dir)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture(scope="session")
def server() -> Iterator[TrainingServer]:
    training = TrainingServer()
    yield training
    training.close()


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
