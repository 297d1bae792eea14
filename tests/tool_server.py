"""Runs the command line tools in forked children. Reads a JSON job a line, answers "> STATUS".

Importing the engine takes seconds, so it is done once; each job is a fork of this process that runs the tool's file as
``python tools/train.py ARGUMENTS`` would.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import kd_mm  # noqa: F401  isort: skip - first, as in the tools

import torch
from mmengine.registry import init_default_scope
from mmengine.runner import EpochBasedTrainLoop, loops
from mmengine.runner import runner as runner_module
from yapf.yapflib import yapf_api

from kd_mm import apis
from kd_mm.engine import atomic_files

TOOLS = Path(__file__).parents[1] / "tools"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(kill: dict) -> None:
    """Die for real before a training iteration, or inside a file operation.

    Args:
        kill: ``iteration``; or ``call`` of the module os, part of the target's ``name``, and at the ``nth`` time.
    """
    if "iteration" in kill:
        arm_loop(kill["iteration"])
    else:
        arm_files(kill)


def arm_loop(iteration: int) -> None:
    run_iter = EpochBasedTrainLoop.run_iter

    def deadly(loop: EpochBasedTrainLoop, *args: object) -> None:
        if loop.iter == iteration:
            die()
        run_iter(loop, *args)

    EpochBasedTrainLoop.run_iter = deadly


def arm_files(kill: dict) -> None:
    original = getattr(atomic_files.os, kill["call"])
    left = [kill.get("nth", 1)]

    def deadly(*args: object) -> object:
        by_handle = kill["call"] == "fsync"
        names = [os.readlink(f"/proc/self/fd/{args[0]}")] if by_handle else [str(name) for name in args]
        if any(kill["name"] in os.path.basename(name) for name in names):
            left[0] -= 1
            if left[0] == 0:
                if by_handle:
                    os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
                die()
        return original(*args)

    setattr(atomic_files.os, kill["call"], deadly)


def shrink(counts: dict[str, dict[str, int]]) -> None:
    """Have generated data sets of fewer images, e.g. ``{"digit_scenes.COUNTS": {"train": 40}}``."""
    for name, fewer in counts.items():
        module, _, constant = name.partition(".")
        getattr(importlib.import_module(f"kd_mm.quickstart.{module}"), constant).update(fewer)


def start(job: dict, rank: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.chdir(job["folder"])
        for number, name in ((1, "out"), (2, "err")):
            log = os.open(f"{name}{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(log, number)
        os.chdir(job["cwd"])
        env = job.get("env", {})
        os.environ.update(env)
        sys.path[1:1] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))  # read once, when a Python starts
        if job["ranks"] > 1:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
            os.environ.update({name: str(job["ranks"]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")})
        if "kill" in job:
            arm(job["kill"])
        shrink(job.get("counts", {}))
        tool = str(TOOLS / f"{job['tool']}.py")
        sys.argv = [tool, *job["arguments"]]
        runpy.run_path(tool, run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def import_for_children() -> None:
    """Import what the tools and the registries would import in each child."""
    names = [module.name for module in pkgutil.iter_modules(apis.__path__, "kd_mm.apis.")]
    parts = ("engine", "evaluation", "visualization")
    for name in [*names, *(f"{package}.{part}" for package in ("mmpretrain", "mmdet") for part in parts)]:
        importlib.import_module(name)


def serve() -> None:
    torch.set_num_threads(1)
    import_for_children()
    # Slow and of no effect here: the environment report, the layout of written configs, a pause between passes,
    # collecting what stays anyway.
    runner_module.collect_env = dict
    loops.time = SimpleNamespace(sleep=lambda seconds: None)
    yapf_api.FormatCode = lambda text, **options: (text, True)
    gc.freeze()
    init_default_scope("mmpretrain")
    print("> ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        ranks = [start(job, rank) for rank in range(job["ranks"])]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in ranks]
        print(f"> {max(codes, key=abs)}", flush=True)


if __name__ == "__main__":
    serve()
