"""Train a config: a plain one, a distillation, or a plain one turned into a distillation (--distiller)."""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

from kd_mm.cli.options import add_cfg_options, add_device_data, add_launcher, add_teacher, run


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", help="config file, or package::path")
    add("--work-dir", help="folder for logs and checkpoints (default work_dirs/<config>)")
    add("--resume", nargs="?", const="auto", metavar="auto|PATH", help="go on from the last checkpoint")
    add("--amp", action="store_true", help="mixed precision: bfloat16, or float16 on old GPUs")
    add("--compile", action="store_true", help="compile teacher and objective of a distillation")
    add("--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size")
    add("--no-validate", action="store_true", help="train without validation")
    add_launcher(parser)
    recipe = parser.add_mutually_exclusive_group()
    recipe.add_argument(
        "--distiller",
        metavar="RECIPE",
        help="distil this plain config with a recipe of docs/methods, e.g. kd, dkd, mtkd_ssr; names joined by + make "
        "one recipe (mtkd_ssr+student_friendly); the composed config is written to the work dir, and --cfg-options are "
        "set in it: the student is under model.student, the recipe under model.recipe",
    )
    recipe.add_argument(
        "--with-exits",
        action="store_const",
        dest="distiller",
        const="exits",
        help="train this plain config together with exits on its stages, in one run (short for --distiller exits): "
        "mtkd_ssr and mskd then read the exits of their teacher from this checkpoint",
    )
    add_teacher(parser, "--distiller")
    add_device_data(parser)
    add_cfg_options(parser)


def train(args: argparse.Namespace) -> None:
    from mmengine.runner import find_latest_checkpoint

    from kd_mm.apis.export import export_trained
    from kd_mm.apis.overrides import override
    from kd_mm.apis.recipes import compose, needs_teacher, recipe_names
    from kd_mm.apis.run_options import enable_amp, set_threads, set_up_launcher
    from kd_mm.apis.runner import read_config, resume
    from kd_mm.apis.runner import train as run_training
    from kd_mm.utils.config import is_distillation

    set_threads()
    if not args.distiller and (args.teacher or args.teacher_checkpoint):
        raise ValueError(f"--teacher and --teacher-checkpoint go with --distiller RECIPE ({', '.join(recipe_names())})")
    config = read_config(args.config, work_dir=args.work_dir)
    if args.distiller:
        if args.work_dir is None:  # never among the checkpoints of the plain run
            config.work_dir = str(Path("work_dirs") / f"{args.distiller}_{Path(args.config.split('::')[-1]).stem}")
        config = compose(config, args.distiller, args.teacher, args.teacher_checkpoint, args.cfg_options)
    else:
        override(config, args.cfg_options)
    if args.distiller and args.teacher and not needs_teacher(config.model.recipe):
        raise ValueError(
            f"--distiller {args.distiller} learns from no teacher; drop --teacher and --teacher-checkpoint, or join a "
            f"recipe that reads one (--distiller {args.distiller}+kd)"
        )
    if args.compile:
        if not is_distillation(config):
            raise ValueError("--compile is for a distillation; a plain config takes --cfg-options compile=True")
        config.model.compile = {"teacher": True, "objective": True, **(config.model.get("compile") or {})}
    if args.amp:
        enable_amp(config)
    if args.auto_scale_lr:
        if not config.get("auto_scale_lr"):
            raise ValueError("--auto-scale-lr: the config has no auto_scale_lr=dict(base_batch_size=...)")
        config.auto_scale_lr.enable = True
    if args.no_validate:
        config.val_cfg = config.val_dataloader = config.val_evaluator = None
    if args.resume is not None:
        resume(config, args.resume)
    set_up_launcher(config, args.launcher)
    started = time.time()
    try:
        run_training(config)
        export_trained(config)
    except KeyboardInterrupt:
        written = (Path(config.work_dir) / "last_checkpoint").is_file()
        stored = find_latest_checkpoint(config.work_dir) if written else None
        if (
            stored is None
            or not Path(stored).is_file()
            or (args.resume != "auto" and Path(stored).stat().st_mtime < started)
        ):  # that of an earlier run
            raise KeyboardInterrupt("no checkpoint is saved yet") from None
        if args.resume != "auto":
            args.command += " --resume"
        raise KeyboardInterrupt(f"{stored} is saved, what came after it is not") from None


main = partial(run, "train", __doc__, train, add_options)
