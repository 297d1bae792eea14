"""Python in another process: the tools as a user runs them, and the environment in which they find the repository."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
KILLED = -9
#: Tools are forks of a process that may ask for GPUs, but not through CUDA, which does not survive a fork. Without the
#: last line cuBLAS may choose another kernel in each run.
VISIBLE = {
    "cpu": {"CUDA_VISIBLE_DEVICES": ""},
    "cuda": {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
}


def environment(*folders: object, **variables: str) -> dict[str, str]:
    """The environment for a Python on one thread that searches the folders, or the repository, before all others."""
    searched = [*map(str, folders or [ROOT]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(searched), **variables}


@dataclass
class Ended:
    """How a tool ended: its exit status (negative for a signal) and what it wrote."""

    status: int
    out: str
    err: str


class Tools:
    """Runs tools on the first GPU, or, as on a machine without any, on the CPU."""

    def __init__(self, scratch: Path, device: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("tool_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(**VISIBLE[device]),
        )
        self.scratch, self.count, self.device = scratch, 0, device
        self.chatter: list[str] = []  # what importing the package said on standard output
        assert self._answer() == "ready"

    def _answer(self) -> str:
        for line in self.process.stdout:
            if line.startswith("> "):
                return line[2:].strip()
            self.chatter.append(line)
        raise RuntimeError("the tool server ended")

    def run(self, tool: str | Path, *arguments: object, ranks: int = 1, cwd: Path | None = None, **job: Any) -> Ended:
        """Run a tool to its end, in an empty folder or in a given one; on GPUs each rank needs one of its own."""
        assert self.device == "cpu" or ranks <= torch.cuda.device_count()
        self.count += 1
        folder = self.scratch / str(self.count)
        folder.mkdir()
        self.folder = folder
        if ranks > 1:
            job["env"] = {"MASTER_PORT": str(free_port()), **job.get("env", {})}
        job.update(tool=str(tool), arguments=[str(argument) for argument in arguments], ranks=ranks)
        job.update(folder=str(folder), cwd=str(cwd or folder))
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
    """Start ``torchrun --nproc_per_node N tools/train.py ARGUMENTS``, which writes into a file."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    command += ["--master_port", str(free_port()), str(ROOT / "tools" / "train.py"), *map(str, arguments)]
    env = environment(**VISIBLE[tools.device])
    with log.open("ab") as file:
        return subprocess.Popen(command, env=env, cwd=log.parent, stdout=file, stderr=file)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
