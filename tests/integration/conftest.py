"""The tools as a user runs them, and a small world to run them in."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.devices import DEVICES

from .world import ROOT, World

KILLED = -9
#: Tools are forks of a process that may ask for GPUs, but not through CUDA, which does not survive a fork. Without the
#: last line cuBLAS may choose another kernel in each run.
VISIBLE = {
    "cpu": {"CUDA_VISIBLE_DEVICES": ""},
    "cuda": {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
}


@dataclass
class Ended:
    """How a tool ended: its exit status (negative for a signal) and what it wrote."""

    status: int
    out: str
    err: str


class Tools:
    """Runs tools on the first GPU, or, as on a machine without any, on the CPU."""

    def __init__(self, scratch: Path, device: str) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **VISIBLE[device]}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("tool_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        self.scratch, self.count, self.device = scratch, 0, device
        assert self._answer() == "ready"

    def _answer(self) -> str:
        for line in self.process.stdout:
            if line.startswith("> "):
                return line[2:].strip()
        raise RuntimeError("the tool server ended")

    def run(self, tool: str, *arguments: object, ranks: int = 1, **job: Any) -> Ended:
        """Run a tool to its end, in an empty current folder; on GPUs each rank needs one of its own."""
        assert self.device == "cpu" or ranks <= torch.cuda.device_count()
        self.count += 1
        folder = self.scratch / str(self.count)
        folder.mkdir()
        self.folder = folder
        if ranks > 1:
            job["env"] = {"MASTER_PORT": str(free_port()), **job.get("env", {})}
        job.update(tool=tool, arguments=[str(argument) for argument in arguments], ranks=ranks, folder=str(folder))
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        status = int(self._answer())
        return Ended(status, (folder / "out0").read_text(), (folder / "err0").read_text())

    def train(self, *arguments: object, **job: Any) -> Ended:
        """Run ``tools/train.py``, which must succeed."""
        ended = self.run("train", *arguments, **job)
        assert ended.status == 0, ended.out[-2000:] + ended.err[-4000:]
        return ended

    def test(self, *arguments: object, **job: Any) -> Ended:
        """Run ``tools/test.py``, which must succeed."""
        ended = self.run("test", *arguments, **job)
        assert ended.status == 0, ended.out[-2000:] + ended.err[-4000:]
        return ended

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def torchrun(tools: Tools, processes: int, *arguments: object, log: Path) -> subprocess.Popen[bytes]:
    """Start ``torchrun --nproc_per_node N tools/train.py ARGUMENTS --launcher pytorch``, which writes into a file."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    command += ["--master_port", str(free_port()), str(ROOT / "tools" / "train.py"), *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **VISIBLE[tools.device]}
    with log.open("ab") as file:
        return subprocess.Popen([*command, "--launcher", "pytorch"], env=env, cwd=log.parent, stdout=file, stderr=file)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session", params=DEVICES)
def tools(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    running = Tools(tmp_path_factory.mktemp("runs"), request.param)
    yield running
    running.close()


@pytest.fixture(scope="session")
def world(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Data, configs, and a teacher that was trained with its plain config."""
    made = World(tmp_path_factory.mktemp("world"))
    tools.train(made.teacher, "--work-dir", made.folder / "teacher")
    (made.folder / "teacher" / "epoch_6.pth").rename(made.checkpoint)
    return made


def differences(left: Any, right: Any, where: str = "") -> list[str]:
    """Where two nested states differ, tensors compared bit for bit."""
    if type(left) is not type(right):
        return [f"{where}: {type(left)} and {type(right)}"]
    if isinstance(left, torch.Tensor):
        return [] if left.dtype == right.dtype and torch.equal(left, right) else [where]
    if isinstance(left, dict):
        if left.keys() != right.keys():
            return [f"{where}: keys {sorted(map(str, left.keys() ^ right.keys()))}"]
        return [found for key in left for found in differences(left[key], right[key], f"{where}.{key}")]
    if isinstance(left, (list, tuple)):
        if len(left) != len(right):
            return [f"{where}: lengths {len(left)} and {len(right)}"]
        pairs = enumerate(zip(left, right, strict=True))
        return [found for number, pair in pairs for found in differences(*pair, f"{where}[{number}]")]
    return [] if left == right else [f"{where}: {left!r} and {right!r}"]


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a checkpoint."""
    return torch.load(path, map_location="cpu", weights_only=False)["state_dict"]
