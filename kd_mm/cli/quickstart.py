"""Train a teacher and students alone and distilled; print one table and draw one picture (a few minutes).

The images are real handwritten digits; for re-identification they are drawn.
"""

import argparse
import time
from functools import partial
from pathlib import Path

from kd_mm.cli.options import run


def add_options(parser: argparse.ArgumentParser) -> None:
    add, tasks = parser.add_argument, ["classification", "detection", "reid"]
    add("task", nargs="?", choices=tasks, default="classification", help="default: classification")
    add("--work-dir", type=Path, help="default: work_dirs/quickstart, with -detection or -reid")
    add("--seeds", type=int, nargs="+", help="default: 0 1 2 3 4; for detection and reid 0 1 2")
    add("--epochs", type=int, help="length of each training, schedules scaled along (default: configs)")
    add("--processes", type=int, default=2, help="trainings side by side, one thread each (default 2)")
    add("--fresh", action="store_true", help="train again what an earlier call finished")


def quickstart(args: argparse.Namespace) -> None:
    from kd_mm.quickstart.classification import DIGITS
    from kd_mm.quickstart.detection import SCENES
    from kd_mm.quickstart.reid import PEOPLE
    from kd_mm.quickstart.run import run_quickstart

    start = time.perf_counter()
    chosen = {"classification": DIGITS, "detection": SCENES, "reid": PEOPLE}[args.task]
    args.command = args.command.replace(" --fresh", "")  # what goes on after an interruption
    work_dir = args.work_dir or Path("work_dirs") / chosen.name
    report = partial(print, flush=True)
    table = run_quickstart(chosen, work_dir, args.seeds, args.epochs, args.processes, args.fresh, report)
    print(f"\n{table}\n{time.perf_counter() - start:.0f} s in all. Files in {work_dir}:")
    print("quickstart.png, table.md, table.csv, results.json, and the logs and checkpoints under runs/")


main = partial(run, "quickstart", __doc__, quickstart, add_options)
