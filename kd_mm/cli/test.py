"""Evaluate a checkpoint: any one of a run, with the distillation config or the student's plain config."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from kd_mm.cli.options import add_common, run


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file, or package::path")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--work-dir", help="folder for logs (default work_dirs/<config>)")
    parser.add_argument(
        "--out", metavar="FILE", help="write the metrics to this .json, or every prediction to this .pkl"
    )
    parser.add_argument(
        "--tta", action="store_true", help="test-time augmentation, where the config or upstream has it"
    )
    parser.add_argument("--amp", action="store_true", help="predict under bfloat16 autocast")
    parser.add_argument(
        "--show-dir",
        metavar="DIR",
        help="draw what a detector finds, beside the ground truth and a distillation's teachers, into this folder",
    )
    parser.add_argument("--show-num", type=int, default=20, metavar="N", help="images to draw (default 20)")
    parser.add_argument(
        "--show-score", type=float, default=0.3, metavar="S", help="draw detections from this score on (default 0.3)"
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    add_common(parser)
    return parser.parse_args(argv)


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
        show_num=args.show_num,
        show_score=args.show_score,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    return run("test", test, parse_args, argv)
