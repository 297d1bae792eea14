"""Print the stages of a config's networks, and which student stage learns from which teacher stage.

Networks get random weights: no checkpoint is needed.

Example:
    python tools/stages.py mmpretrain::resnet/resnet18_8xb32_in1k.py
    python tools/stages.py CONFIG --input-size 128 128 --all
"""

import argparse
from functools import partial

from kd_mm.cli.options import add_cfg_options, run


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="distillation config or plain config: a file, or package::path")
    parser.add_argument("--input-size", nargs=2, type=int, metavar=("H", "W"), help="pixels (default: from the config)")
    parser.add_argument("--all", action="store_true", help="list every module that can be tapped, with its output")
    add_cfg_options(parser)


def show_stages(args: argparse.Namespace) -> None:
    from kd_mm.apis.stages import module_sections, stage_sections
    from kd_mm.utils.config import load_config

    config = load_config(args.config)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    size = tuple(args.input_size) if args.input_size else None
    sections = module_sections(config, size) if args.all else stage_sections(config, size)
    for number, section in enumerate(sections):
        print(("\n" if number else "") + section, flush=True)


main = partial(run, "stages", __doc__, show_stages, add_options)
