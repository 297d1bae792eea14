"""Train and test configs under the same seeds and print one table: mean and spread, last epoch first.

Examples:
    python tools/compare.py STUDENT.py KD.py MTKD-SSR.py --seeds 0,1,2 --jobs 2 --work-dir work_dirs/comparison
    python tools/compare.py STUDENT.py --distillers kd,dkd,mtkd_ssr --teacher TEACHER.py --teacher-checkpoint T.pth
    python tools/compare.py configs/sweeps/cifar100_240e.py --devices cuda:0 --jobs 3      (rows, seeds and metrics)
    python tools/compare.py STUDENT.py --distillers mtkd_ssr --ablate scd,srd,review --teacher ... (alone, in pairs)
    python tools/compare.py STUDENT.py --distillers mtkd_ssr --vary model.recipe.losses.srd.temperature=1,2 ...

Every row is checked before the first is trained. The same command goes on where it was cut off; with further rows or
seeds it trains those alone; where a finished row has changed it stops. --page docs/results/NAME.json stores the results
there and writes NAME.md and NAME.png from them; without configs it writes these two again, after a change of the texts
in NAME.json.
Runs of several machines: copy their runs/ into one work dir, --merge.
A choice between settings belongs on the validation split: --cfg-options test_dataloader.dataset.split=val
"""

import argparse
from functools import partial
from pathlib import Path

from kd_mm.cli.options import Overrides, add_cfg_options, add_device_data, add_teacher, run


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("configs", nargs="*", help="config files, or package::path; each is a row; or one sweep file")
    add("--distillers", type=_words, default=[], metavar="A,B,A+C", help="recipes; each is a row a config")
    add_teacher(parser, "--distillers")
    ablate = "losses of the recipes: further rows with each of them alone and in pairs, other losses as they are"
    add("--ablate", type=_words, default=[], metavar="LOSS,LOSS", help=ablate)
    vary = "config keys: further rows with each of these values, everything else as it is"
    add("--vary", nargs="+", action=Overrides, metavar="KEY=A,B", help=vary)
    add("--work-dir", type=Path, default=Path("work_dirs/compare"), help="default: %(default)s")
    add("--seeds", type=_seeds, nargs="+", metavar="N", help="default: the sweep file's, or 0,1,2")
    add(
        "--metric",
        nargs="+",
        help="columns of the table, larger is better; the first chooses the best epoch (default: the sweep file's, or "
        "accuracy/top1; detection has voc07/mAP, voc12/mAP and coco/mAP)",
    )
    add("--jobs", type=_jobs, default=1, help="trainings side by side on each device (default 1)")
    add("--devices", nargs="+", default=[], metavar="cuda:N", help="each training is on one of them")
    add("--page", type=Path, metavar="JSON", help="store the results in this file, and write its page")
    add("--merge", action="store_true", help="train nothing: the table of what is finished")
    add("--smoke", action="store_true", help="a trial: one epoch of two steps a row, on generated CIFAR-100 images")
    add_device_data(parser)
    add_cfg_options(parser)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _seeds(text: str) -> list[int]:
    words = _words(text)
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f"{text!r}: write integers, 0 or more, e.g. 0,1,2")
    return [int(word) for word in words]


def _jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: write an integer, 1 or more")
    return int(text)


def train_and_compare(args: argparse.Namespace) -> None:
    from kd_mm.apis.result_table import write_page
    from kd_mm.apis.rows import read_sweep
    from kd_mm.apis.sweep import compare, merge
    from kd_mm.quickstart.smoke import shrink

    if args.page is not None and args.page.suffix != ".json":
        raise ValueError(f"--page {args.page}: name the file of results, {args.page.with_suffix('.json')}")
    if not args.configs:
        if args.page is None:
            raise ValueError("compare: give configs or a sweep file, or --page JSON alone to write its page again")
        print(f"written: {write_page(args.page)}")
        return
    sweep = read_sweep(
        args.configs,
        args.distillers,
        args.teacher,
        args.teacher_checkpoint,
        args.ablate,
        args.cfg_options,
        args.vary,
        [seed for seeds in args.seeds for seed in seeds] if args.seeds else None,
        args.metric,
    )
    if args.smoke:
        sweep = shrink(sweep, args.work_dir / "smoke_data")
    try:
        if args.merge:
            table = merge(sweep, args.work_dir)
        else:
            table = compare(sweep, args.work_dir, args.jobs, lambda line: print(line, flush=True), args.devices)
        print(f"\n{table}\nFiles in {args.work_dir}: table.md, table.csv, table.png, results.json; runs under runs/")
    finally:
        if args.page is not None and (args.work_dir / "results.json").is_file():
            print(f"written: {write_page(args.page, args.work_dir, args.command)}")


main = partial(run, "compare", __doc__, train_and_compare, add_options)
