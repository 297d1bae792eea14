"""Jobs in processes of their own, several at a time on each device; a finished job is stored and not run again."""

import contextlib
import gc
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from kd_mm.utils.atomic_files import replace_file

Result = dict[str, Any]

#: File in a job's folder with the reason why it failed.
_FAILURE = "failure.txt"


class JobFailedError(RuntimeError):
    """Jobs failed; the message names their logs.

    Attributes:
        failures: What went wrong in each of them, by name.
    """

    def __init__(self, failures: Mapping[str, str], folder: Path, left: int = 0) -> None:
        logs = {name: folder / name / "console.log" for name in failures}
        parts = [f"{name} failed: {why} (see {logs[name]})" for name, why in failures.items()]
        parts += [f"{left} more need what failed, and were not started"] if left else []
        super().__init__("; ".join([*parts, "what is finished is kept, the same command goes on from here"]))
        self.failures = dict(failures)


@dataclass(frozen=True)
class Job:
    """A function that runs in a process of its own.

    Attributes:
        name: Name of its folder.
        run: Takes the folder and returns the result, a dict for JSON. It has to be picklable. It finds what it left in
            the folder if it was cut off.
        fingerprint: A text that changes with whatever the result depends on, see :func:`fingerprint`.
        needs: Names of the jobs that have to be finished before.
    """

    name: str
    run: Callable[[Path], Result]
    fingerprint: str
    needs: tuple[str, ...] = ()


def fingerprint(*parts: Any) -> str:
    """Return a hash of configs and other values that JSON can hold."""
    plain = [part.to_dict() if isinstance(part, Config) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, default=str, sort_keys=True).encode()).hexdigest()[:16]


def stored_results(jobs: Sequence[Job], folder: Path) -> dict[str, Result]:
    """Return the results of the jobs that are finished under the same fingerprint, by name."""
    results = {}
    for job in jobs:
        with contextlib.suppress(OSError, ValueError):
            stored = json.loads((folder / job.name / "result.json").read_text())
            if stored.get("fingerprint") == job.fingerprint:
                results[job.name] = stored["result"]
    return results


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    processes: int,
    report: Callable[[Job, Result, bool], object],
    devices: Sequence[str] = (),
    report_failure: Callable[[Job, str], object] = lambda job, why: None,
) -> dict[str, Result]:
    """Run jobs side by side, one thread each, in an order that respects what they wait for.

    A job leaves ``<folder>/<name>/console.log`` and, once finished, ``result.json``; the result of an earlier call is
    reused where its fingerprint is the same. A job that was cut off finds its folder as it left it, unless its
    fingerprint has changed. After a failure the jobs that need the failed one are not started; all others are finished.

    Args:
        jobs: All jobs.
        folder: Parent of their folders.
        processes: How many run at a time, on each device.
        report: Called for each finished job with its result and whether it comes from an earlier call.
        devices: ``"cuda:0"`` ... or ``"cpu"``; each job sees one of them. By default all see all.
        report_failure: Called for each job that fails, with the reason.

    Returns:
        Result by name, in the order of ``jobs``.

    Raises:
        ValueError: There is no such device.
        JobFailedError: Jobs failed. What is finished is stored.
        KeyboardInterrupt: With what is stored.
    """
    visible_devices: list[str | None] = [_visible_devices(device) for device in devices] or [None]
    free = visible_devices * processes
    results = stored_results(jobs, folder)
    for job in jobs:
        if job.name in results:
            report(job, results[job.name], True)
    waiting = [job for job in jobs if job.name not in results]
    running: dict[Any, tuple[Job, multiprocessing.process.BaseProcess, str | None]] = {}
    failures: dict[str, str] = {}
    try:
        while True:
            due = [job for job in waiting if set(job.needs) <= set(results)]
            for job in due[: len(free)]:
                waiting.remove(job)
                visible = free.pop(0)
                process = _start(job, folder, visible)
                running[process.sentinel] = job, process, visible
            if not running:
                break
            for sentinel in wait(list(running)):
                job, process, visible = running.pop(sentinel)
                process.join()
                free.append(visible)
                results |= stored_results([job], folder)
                if job.name in results:
                    report(job, results[job.name], False)
                else:
                    file = folder / job.name / _FAILURE
                    terminated = f"its process was terminated (exit code {process.exitcode})"
                    failures[job.name] = file.read_text() if file.is_file() else terminated
                    report_failure(job, failures[job.name])
    except KeyboardInterrupt:
        raise KeyboardInterrupt("finished runs are kept, of the others the last checkpoint is saved") from None
    finally:
        for _, process, _ in running.values():
            process.kill()
    if failures:
        raise JobFailedError(failures, folder, left=len(waiting))
    return {job.name: results[job.name] for job in jobs}


def _visible_devices(device: str) -> str:
    """Return ``CUDA_VISIBLE_DEVICES`` of a process that sees one device."""
    if device == "cpu":
        return ""
    kind, _, index = device.partition(":")
    count = torch.cuda.device_count()
    if kind != "cuda" or not index.isdecimal() or int(index) >= count:
        known = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
        raise ValueError(f"device {device!r}: there are {known}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[int(index)] if visible else index


@contextlib.contextmanager
def _environment(visible: str | None) -> Iterator[None]:
    """Set ``CUDA_VISIBLE_DEVICES`` for the processes started inside; ``None`` leaves it as it is."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    try:
        yield
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        os.environ.update({} if before is None else {"CUDA_VISIBLE_DEVICES": before})


def _start(job: Job, folder: Path, visible: str | None) -> multiprocessing.process.BaseProcess:
    # A forked process has the imports already; one that has looked for CUDA, except through NVML, must not be forked,
    # nor one that is to see another device.
    nvml_alone = os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK") == "1" and visible is None
    untouched = (nvml_alone or not torch.cuda.is_available()) and not torch.cuda.is_initialized()
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" and untouched else "spawn")
    process: multiprocessing.process.BaseProcess = context.Process(target=_execute, args=(job, folder, os.getpid()))
    with _environment(visible):
        process.start()
    return process


def _execute(job: Job, folder: Path, parent: int) -> None:
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    gc.freeze()  # each data set of mmengine has the collector walk over all there is
    home = folder / job.name
    started = home / "fingerprint"  # of what an earlier call was doing when it was cut off
    if not started.is_file() or started.read_text() != job.fingerprint:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        replace_file(started, job.fingerprint.encode())
    (home / _FAILURE).unlink(missing_ok=True)
    with open(home / "console.log", "a", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        try:
            content = {"fingerprint": job.fingerprint, "result": job.run(home)}
            replace_file(home / "result.json", json.dumps(content, indent=2).encode())
        except BaseException as error:
            traceback.print_exc()
            replace_file(home / _FAILURE, (" ".join(str(error).split()) or type(error).__name__).encode())
        log.flush()
        os._exit(0)  # nothing of a forked parent is to be flushed or cleaned up here


def _exit_with(parent: int) -> None:
    # A job whose parent was killed would train on.
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
