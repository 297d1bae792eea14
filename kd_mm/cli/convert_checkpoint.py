"""Rename a public checkpoint so that a plain config of kd_mm loads it.

Example:
    python tools/convert_checkpoint.py ckpt_epoch_240.pth configs/classification/cifar100/resnet56_1xb64_cifar100.py \
        checkpoints/cifar100/resnet56.pth
"""

import argparse
from functools import partial

from kd_mm.cli.options import run


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("src", help="checkpoint of torchvision, timm, RepDistiller, akamaster or deep-person-reid")
    parser.add_argument("config", help="plain config of the same network")
    parser.add_argument("dst", help="file to write")


def convert(args: argparse.Namespace) -> None:
    from kd_mm.apis.convert import convert_checkpoint

    meta = convert_checkpoint(args.src, args.config, args.dst)
    print(f"{meta['source']} ({meta['network']}) -> {args.dst}")


main = partial(run, "convert", __doc__, convert, add_options)
