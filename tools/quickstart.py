"""Train a teacher and three students on handwritten digits; print one table and draw one picture (a few minutes)."""

import argparse
import time
from pathlib import Path

from kd_mm.apis.cli import ClearErrors
from kd_mm.apis.quickstart import quickstart


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/quickstart"), help="default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4")
    parser.add_argument("--epochs", type=int, help="length of each training, schedules scaled along (default 60)")
    parser.add_argument("--processes", type=int, default=2, help="trainings side by side, one thread each (default 2)")
    parser.add_argument("--fresh", action="store_true", help="train again what an earlier call finished")
    parser.add_argument("--traceback", action="store_true", help="show the whole traceback of an error")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    table = quickstart(
        args.work_dir, args.seeds, args.epochs, args.processes, args.fresh, lambda line: print(line, flush=True)
    )
    print(f"\n{table}\n{time.perf_counter() - start:.0f} s in all. Files in {args.work_dir}:")
    print("quickstart.png, table.md, table.csv, results.json, and the logs and checkpoints under runs/")


if __name__ == "__main__":
    arguments = parse_args()
    try:
        with ClearErrors(arguments.traceback):
            main(arguments)
    except KeyboardInterrupt:
        raise SystemExit("stopped; what is finished is kept, the same command goes on from here") from None
