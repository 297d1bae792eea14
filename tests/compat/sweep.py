"""Train every config family of the installed mmdet two steps and say what stops the others.

    python -m tests.compat.sweep                        # all families, about half an hour on one core
    python -m tests.compat.sweep dcn carafe             # these
    python -m tests.compat.sweep --write tests/compat/families.md

Each config runs in a process of its own with one thread and a time limit.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from mmdet.utils import register_all_modules
from mmengine.logging import MMLogger

import kd_mm
from tests.compat import families


def record_operators(used: set[str]) -> None:
    """Note the names of mmcv's operators that are called from now on."""
    extension = sys.modules["mmcv._ext"]

    def wrap(name: str, operator: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(operator)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            used.add(name)
            return operator(*args, **kwargs)

        return wrapper

    for name in kd_mm.compat.report().operators or dir(extension):
        if not name.startswith(("_", "get_")):
            setattr(extension, name, wrap(name, getattr(extension, name)))


def attempt(path: Path) -> dict[str, Any]:
    """Build, train, predict; what failed is named."""
    used: set[str] = set()
    record_operators(used)
    result: dict[str, Any] = {"config": str(path), "trains": False, "predicts": False, "reason": "", "operators": used}
    began = time.monotonic()
    try:
        model = families.prepare(families.load(path))
        data = families.batch(model)
        detector = families.build(model)
        result["losses"] = families.train(detector, data)
        result["trains"] = True
        if "video_data_samples" not in data["data_samples"][0] if isinstance(data["data_samples"], list) else False:
            families.predict(detector, data)
            result["predicts"] = True
    except Exception as error:  # any failure is a finding
        place = traceback.extract_tb(error.__traceback__)[-1]
        lines = str(error).strip().splitlines() or [""]
        result["reason"] = f"{type(error).__name__}: {lines[-1][:160]} ({Path(place.filename).name}:{place.lineno})"
    result["seconds"] = time.monotonic() - began
    return result


def _child(path: Path, end: Connection) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    MMLogger.get_current_instance().setLevel("ERROR")
    end.send(attempt(path))


def limited(path: Path, seconds: float) -> dict[str, Any]:
    """`attempt` in a process of its own."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(path, there))
    process.start()
    there.close()
    failed = {"config": str(path), "trains": False, "predicts": False, "operators": set(), "seconds": seconds}
    try:
        result = here.recv() if here.poll(seconds) else {**failed, "reason": f"took longer than {seconds:g} s"}
    except EOFError:
        result = {**failed, "reason": "the process died"}
    process.kill()
    process.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="folders of mmdet's configs (default: all)")
    parser.add_argument("--limit", type=float, default=300, help="seconds for one config (default: 300)")
    args = parser.parse_args()
    register_all_modules(init_default_scope=True)
    for family in args.families or families.names():
        chosen, broken = families.representatives(family)
        for line in broken:
            print("  broken", line)
        for path in chosen:
            r = limited(path, args.limit)
            ok = f"{'T' if r['trains'] else '-'}{'P' if r['predicts'] else '-'}"
            print(f"{ok} {path} {r['seconds']:.0f}s [{' '.join(sorted(r['operators']))}] {r['reason']}", flush=True)
        if not chosen:
            print(f"-- {family}: no model")


if __name__ == "__main__":
    main()
