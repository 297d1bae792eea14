"""Write the student of a run as a plain checkpoint, with its plain config beside it.

Example:
    python tools/export_student.py CONFIG work_dirs/run/epoch_240.pth student.pth --onnx

With --exits the student with the exits that it was trained with is written as well, as a classifier of its own that
predicts with their ensemble:
    python tools/export_student.py CONFIG work_dirs/run/epoch_240.pth student.pth --exits
    python tools/test.py student_exits.py student_exits.pth
"""

import argparse
from functools import partial
from pathlib import Path

from kd_mm.cli.options import add_cfg_options, run


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", help="distillation config or plain config: a file, or package::path")
    add("checkpoint", help="any checkpoint of a run")
    add("out", help="checkpoint to write (.pth); the config is written beside it as .py")
    add("--onnx", nargs="?", const="", metavar="FILE", help="write ONNX, too (default: beside, .onnx)")
    exits = "write the multi-exit classifier, too: checkpoint and config (default: beside, OUT_exits.pth)"
    add("--exits", nargs="?", const="", metavar="FILE", help=exits)
    add("--input-size", nargs=2, type=int, metavar=("H", "W"), help="pixels for ONNX and for costs")
    add("--teacher", metavar="NAME", help="instead of the student its average, e.g. ema after --distiller ema_teacher")
    add_cfg_options(parser)


def export(args: argparse.Namespace) -> None:
    from kd_mm.apis.export import export_student
    from kd_mm.apis.export_exits import export_exits
    from kd_mm.utils.onnx import ONNX_BATCHES, ONNX_TOLERANCE

    onnx = None if args.onnx is None else args.onnx or str(Path(args.out).with_suffix(".onnx"))
    size = tuple(args.input_size) if args.input_size else None
    done = export_student(args.config, args.checkpoint, args.out, args.cfg_options, onnx, size, args.teacher)
    print(f"{done.checkpoint}: {done.tensors} tensors ({done.weights} weights)")
    print(f"{done.config}: the plain config")
    if done.onnx is not None:
        batches = " and ".join(map(str, ONNX_BATCHES))
        print(
            f"{done.onnx}: agrees with torch to {done.onnx_difference:.1e} of the largest output "
            f"(limit {ONNX_TOLERANCE:g}) for batches of {batches}"
        )
    if args.exits is not None:
        out = Path(args.exits) if args.exits else Path(args.out).with_stem(f"{Path(args.out).stem}_exits")
        done = export_exits(args.config, args.checkpoint, out, args.cfg_options, size)
        print(f"{done.checkpoint}: {done.tensors} tensors, the student and its exits")
        print(f"{done.config}: its config; set model.ensemble, model.weights and model.depth there")
        print(f"at {done.input_size} (height, width) pixels")
        for name, (parameters, macs) in done.costs.items():
            print(f"  {name:<15}{parameters:>15,} parameters {macs:>17,} multiply-adds")


main = partial(run, "export", __doc__, export, add_options)
