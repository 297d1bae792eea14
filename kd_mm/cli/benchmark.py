"""Time a distillation config beside its floor: the plain student's step and the teacher's forward, round by round.

With --training: images per second of a real run of any config by the ordinary loader and by DeviceLoader, the share of
the loader, and what kd_mm's hooks add to the engine's loop.
"""

import argparse
import json
import sys
from functools import partial
from typing import Any

from kd_mm.cli.options import add_cfg_options, run


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", help="distillation config, or with --distiller a plain one; no file is read beside it")
    add("--distiller", metavar="RECIPE", help="distil this plain config, as tools/train.py --distiller")
    add("--teacher", nargs="+", metavar="CONFIG", help="with --distiller: the teacher, or several")
    add("--training", action="store_true", help="run any config on its data, on the engine's device")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--amp", action="store_true", help="mixed precision, as tools/train.py --amp")
    add("--channels-last", action="store_true", help="channels_last memory format for every part")
    add("--compile", action="store_true", help="torch.compile for every part; no time of each loss")
    add("--batch-size", type=int, metavar="N", help="images a step (default: the config's)")
    add("--input-size", type=int, nargs=2, metavar=("H", "W"), help="pixels (default: the Distiller's)")
    add("--rounds", "--steps", dest="steps", type=int, default=30, metavar="N", help="measured rounds (default 30)")
    add("--warmup", type=int, default=5, metavar="N", help="rounds before these (default 5)")
    add("--clock", choices=["auto", "wall", "cpu"], default="auto", help="auto: CPU time on one thread")
    add("--no-terms", action="store_true", help="do not time the step without each loss")
    add("--json", nargs="?", const="-", metavar="FILE", help="JSON to FILE, or instead of the table")
    add_cfg_options(parser)


def time_step(args: argparse.Namespace) -> None:
    from kd_mm.apis.benchmark import benchmark, describe
    from kd_mm.apis.benchmark_training import benchmark_training, describe_training
    from kd_mm.apis.overrides import override
    from kd_mm.apis.recipes import compose
    from kd_mm.apis.runner import measure_at_data_size, read_config

    config = read_config(args.config)
    if args.distiller:
        unread = ["unread.pth"] * len(args.teacher or [])  # weights are random here
        config = compose(config, args.distiller, args.teacher, unread, args.cfg_options)
    else:
        override(config, args.cfg_options)
    measure_at_data_size(config)
    if args.training:
        check_training(args)
        result = benchmark_training(config, args.amp, args.batch_size, args.steps, args.warmup, clock=args.clock)
        return write(args, result, describe_training(result))
    result = benchmark(
        config,
        device=args.device,
        amp=args.amp,
        batch_size=args.batch_size,
        input_size=args.input_size,
        steps=args.steps,
        warmup=args.warmup,
        terms=not args.no_terms,
        channels_last=args.channels_last,
        clock=args.clock,
        compiled=args.compile,
    )
    return write(args, result, describe(result))


def check_training(args: argparse.Namespace) -> None:
    from mmengine.device import get_device

    for option in ("channels_last", "input_size", "no_terms", "compile"):
        if vars(args)[option]:
            raise ValueError(f"--{option.replace('_', '-')} is of the benchmark of a step: drop it, or --training")
    here = get_device()
    if args.device != here:
        raise ValueError(
            f"--training --device {args.device}: the engine trains on {here}; give --device {here}, or hide the GPU "
            "(CUDA_VISIBLE_DEVICES=)"
        )


def write(args: argparse.Namespace, result: dict[str, Any], table: str) -> None:
    from kd_mm.utils.atomic_files import replace_file

    if args.json:
        text = json.dumps({"config": args.config, **result}, indent=2) + "\n"
        sys.stdout.write(text) if args.json == "-" else replace_file(args.json, text.encode())
    if args.json != "-":
        sys.stdout.write(table + "\n")


main = partial(run, "benchmark", __doc__, time_step, add_options)
