"""Train a teacher and students alone and distilled; print one table and draw one picture (a few minutes).

The images are real handwritten digits; for re-identification they are drawn.
"""

import argparse
import time
from pathlib import Path

import kd_mm  # noqa: F401 - registers everything
from kd_mm.apis.cli import ClearErrors
from kd_mm.quickstart.classification import DIGITS
from kd_mm.quickstart.detection import SCENES
from kd_mm.quickstart.reid import PEOPLE
from kd_mm.quickstart.run import run_quickstart

QUICKSTARTS = {"classification": DIGITS, "detection": SCENES, "reid": PEOPLE}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "task", nargs="?", choices=QUICKSTARTS, default="classification", help="default: classification"
    )
    parser.add_argument("--work-dir", type=Path, help="default: work_dirs/quickstart, with -detection or -reid")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2 3 4; for detection and reid 0 1 2")
    parser.add_argument("--epochs", type=int, help="length of each training, schedules scaled along (default: configs)")
    parser.add_argument("--processes", type=int, default=2, help="trainings side by side, one thread each (default 2)")
    parser.add_argument("--fresh", action="store_true", help="train again what an earlier call finished")
    parser.add_argument("--traceback", action="store_true", help="show the whole traceback of an error")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    quickstart = QUICKSTARTS[args.task]
    work_dir = args.work_dir or Path("work_dirs") / quickstart.name
    table = run_quickstart(
        quickstart,
        work_dir,
        args.seeds,
        args.epochs,
        args.processes,
        args.fresh,
        lambda line: print(line, flush=True),
    )
    print(f"\n{table}\n{time.perf_counter() - start:.0f} s in all. Files in {work_dir}:")
    print("quickstart.png, table.md, table.csv, results.json, and the logs and checkpoints under runs/")


if __name__ == "__main__":
    arguments = parse_args()
    try:
        with ClearErrors(arguments.traceback):
            main(arguments)
    except KeyboardInterrupt:
        raise SystemExit("stopped; what is finished is kept, the same command goes on from here") from None
