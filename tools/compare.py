"""Train and test configs under the same seeds and print one table: mean and spread, last epoch first.

Example:
    python tools/compare.py STUDENT.py KD.py MTKD-SSR.py --seeds 0 1 2 --jobs 2 --work-dir work_dirs/comparison
"""

import argparse
from pathlib import Path

import kd_mm  # noqa: F401 - registers everything
from kd_mm.apis.cli import ClearErrors, add_common
from kd_mm.apis.compare import compare


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", help="config files, or package::path; each is a row")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/compare"), help="default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument(
        "--metric",
        nargs="+",
        default=["accuracy/top1"],
        help="columns of the table, larger is better; the first chooses the best epoch (default: accuracy/top1; "
        "detection has voc07/mAP, voc12/mAP and coco/mAP)",
    )
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side, one thread each (default 1)")
    add_common(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    table = compare(
        args.configs,
        args.work_dir,
        args.seeds,
        args.metric,
        args.cfg_options,
        args.jobs,
        lambda line: print(line, flush=True),
    )
    print(f"\n{table}\nFiles in {args.work_dir}: table.md, table.csv, results.json, and the runs under runs/")


if __name__ == "__main__":
    arguments = parse_args()
    with ClearErrors(arguments.traceback):
        main(arguments)
