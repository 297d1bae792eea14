"""Run the tools as a user does: in this process, or in processes of their own where they are killed or are ranks."""

import contextlib
import importlib
import io
import logging
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from mmengine.registry import init_default_scope
from mmengine.testing.runner_test_case import RunnerTestCase

from . import faults

ROOT = Path(__file__).parents[2]
KILLED = -9


def environment(*folders: object, **variables: str) -> dict[str, str]:
    """Return the environment for a Python on one thread that searches the folders, or the repository, before others."""
    searched = [*map(str, folders or [ROOT]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(searched), **variables}


@dataclass
class Ended:
    """How a tool ended: its exit status (negative for a signal) and what it wrote."""

    status: int
    out: str
    err: str


def failed(ended: Ended, *words: str) -> str:
    """Return the only line on standard error of a tool that ended by wrong input; it holds the words."""
    assert ended.status == 2, ended.out[-2000:] + ended.err[-4000:]
    (line,) = ended.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    return line


def refused(ended: Ended, *words: str) -> str:
    """Return the same line of a tool that ended before its first step."""
    assert "Epoch(train)" not in ended.out
    return failed(ended, *words)


def clean_engine() -> None:
    """Forget what the engine keeps for the life of a process: loggers, message hubs, visualizers, the default scope."""
    case = RunnerTestCase()
    case.setUp()
    case.tearDown()


@contextlib.contextmanager
def isolated(cwd: Path, env: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run the engine as in a new process: nothing is left of earlier runs, and nothing stays."""
    threads, variables, path, folder = torch.get_num_threads(), dict(os.environ), list(sys.path), Path.cwd()
    deterministic, cudnn = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    clean_engine()
    os.environ.update(env or {})
    sys.path[:0] = filter(None, (env or {}).get("PYTHONPATH", "").split(os.pathsep))
    os.chdir(cwd)
    try:
        yield
    finally:
        clean_engine()
        logging.captureWarnings(False)
        os.chdir(folder)
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(variables)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.deterministic = cudnn
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def call(tool: str, arguments: list[str]) -> int:
    """Return the exit status of a tool's ``main``, with its traceback on standard error where it raises."""
    try:
        with mock.patch.object(sys, "argv", [tool, *arguments]):
            return int(importlib.import_module(f"kd_mm.cli.{tool}").main(arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:
        traceback.print_exc()
        return 1


class Tools:
    """Runs tools on the first GPU, or, as on a machine without any, on the CPU."""

    def __init__(self, scratch: Path, device: str) -> None:
        self.scratch, self.count, self.device = scratch, 0, device
        self.env = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}

    def run(
        self,
        tool: str,
        *arguments: object,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        ranks: int = 1,
        kill: Mapping[str, Any] | None = None,
    ) -> Ended:
        """Run a tool to its end.

        Args:
            tool: Name of a module of :mod:`kd_mm.cli`.
            arguments: Of its command line.
            cwd: Folder to run in; an empty one by default, which is then ``self.folder``.
            env: Environment variables; folders of ``PYTHONPATH`` are searched.
            ranks: Number of processes of a distributed run; on GPUs each needs one of its own.
            kill: When each process dies, see :func:`tests.helpers.faults.arm`.
        """
        assert self.device == "cpu" or ranks <= torch.cuda.device_count()
        self.count += 1
        self.folder = self.scratch / str(self.count)
        self.folder.mkdir()
        words, folder, variables = list(map(str, arguments)), cwd or self.folder, {**self.env, **(env or {})}
        if ranks > 1 or kill is not None:
            return forked(_tool, tool, words, kill, cwd=folder, env=variables, ranks=ranks, logs=self.folder)
        out, err = io.StringIO(), io.StringIO()
        with isolated(folder, variables), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            init_default_scope("mmpretrain")
            status = call(tool, words)
        return Ended(status, out.getvalue(), err.getvalue())

    def train(self, *arguments: object, **options: Any) -> Ended:
        """Run ``kd-mm train``, which must succeed."""
        return self.succeeds("train", *arguments, **options)

    def test(self, *arguments: object, **options: Any) -> Ended:
        """Run ``kd-mm test``, which must succeed."""
        return self.succeeds("test", *arguments, **options)

    def succeeds(self, tool: str, *arguments: object, **options: Any) -> Ended:
        """Run a tool, which must succeed."""
        ended = self.run(tool, *arguments, **options)
        assert ended.status == 0, ended.out[-2000:] + ended.err[-4000:]
        return ended

    def refused(self, tool: str, *arguments: object, **options: Any) -> str:
        """Run a tool, which must end before it begins; return its only line on standard error."""
        return refused(self.run(tool, *arguments, **options))


def _tool(tool: str, arguments: list[str], kill: Mapping[str, Any] | None) -> int:
    if kill is not None:
        faults.arm(kill)
    return call(tool, arguments)


def forked(
    target: Callable[..., int | None],
    *arguments: Any,
    logs: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    ranks: int = 1,
) -> Ended:
    """Call a function in processes of their own, which may be killed; what rank 0 writes is in what this returns.

    A fork has everything imported already. Once CUDA is in use here it would not work there: then it is a new Python,
    which imports the function by its name. The folder ``logs`` gets ``out<rank>`` and ``err<rank>``.
    """
    context = multiprocessing.get_context("spawn" if torch.cuda.is_initialized() else "fork")
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())} if ranks > 1 else {}
    processes = []
    for rank in range(ranks):
        ranked = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks} if ranks > 1 else {}
        variables = {**group, **{name: str(value) for name, value in ranked.items()}, **(env or {})}
        process = context.Process(target=_child, args=(target, arguments, rank, logs, cwd or logs, variables))
        process.start()
        processes.append(process)
    for process in processes:
        process.join()
    status = max((int(process.exitcode or 0) for process in processes), key=abs)
    return Ended(status, (logs / "out0").read_text(), (logs / "err0").read_text())


def _child(
    target: Callable[..., int | None], arguments: tuple[Any, ...], rank: int, logs: Path, cwd: Path, env: dict[str, str]
) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(logs / f"{name}{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    with (
        os.fdopen(1, "w", closefd=False) as out,
        os.fdopen(2, "w", closefd=False) as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        isolated(cwd, env),
    ):
        status: int | None = 1
        try:
            torch.set_num_threads(1)
            init_default_scope("mmpretrain")
            status = target(*arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            out.flush()
            err.flush()
            os._exit(status or 0)


def torchrun(tools: Tools, processes: int, *arguments: object, log: Path) -> subprocess.Popen[bytes]:
    """Start ``torchrun --nproc_per_node N tools/train.py ARGUMENTS``, which writes into a file."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    command += ["--master_port", str(free_port()), str(ROOT / "tools" / "train.py"), *map(str, arguments)]
    with log.open("ab") as file:
        return subprocess.Popen(command, env=environment(**tools.env), cwd=log.parent, stdout=file, stderr=file)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
