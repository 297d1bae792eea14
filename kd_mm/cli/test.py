"""Evaluate a checkpoint: any one of a run, with the distillation config or the student's plain config."""

import argparse
from functools import partial

from kd_mm.cli.options import add_cfg_options, add_launcher, run


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", help="config file, or package::path")
    add("checkpoint", help="checkpoint file")
    add("--work-dir", help="folder for logs (default work_dirs/<config>)")
    add("--out", metavar="FILE", help="write the metrics to this .json, or every prediction to this .pkl")
    add("--tta", action="store_true", help="test-time augmentation, where the config or upstream has it")
    add("--amp", action="store_true", help="predict under bfloat16 autocast")
    add("--show-dir", metavar="DIR", help="draw detections beside the ground truth into this folder")
    add_launcher(parser)
    add_cfg_options(parser)


def test(args: argparse.Namespace) -> None:
    from kd_mm.apis.evaluate import evaluate

    evaluate(
        args.config,
        args.checkpoint,
        options=args.cfg_options,
        work_dir=args.work_dir,
        out=args.out,
        tta=args.tta,
        amp=args.amp,
        launcher=args.launcher,
        show_dir=args.show_dir,
    )


main = partial(run, "test", __doc__, test, add_options)
