"""What the command lines share: options, and one clear line for wrong input."""

import os
import re
import shlex
import sys
from argparse import SUPPRESS, Action, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from typing import Any

from mmengine.config import DictAction


class Overrides(DictAction):
    """Reads ``KEY=VALUE`` words; one that is not understood ends the program with one line.

    Values are numbers, words, ``None``, lists and tuples; a dict would be read as a word.
    """

    def __call__(self, parser: ArgumentParser, namespace: Any, values: Any, option_string: str | None = None) -> None:
        read = dict(vars(namespace)[self.dest] or {})
        for word in values:
            key, _, value = word.partition("=")
            if value.lstrip("[(").startswith(("dict(", "{")):
                parser.exit(
                    2,
                    f"error: {option_string} {word}: a dict is not read; write {key}.KEY=VALUE for each key of one "
                    "that is there, and a new one into a config file\n",
                )
            if re.search(r"[^\s,\[\]()]\s+[^\s,\[\]()]", value):  # the engine would take the blanks out
                if re.search(r"[,\[(]", value):
                    parser.exit(2, f"error: {option_string} {word}: a list with blanks in it goes into a config file\n")
                read[key] = value.strip("'\"")
                continue
            try:
                super().__call__(parser, namespace, [word], option_string)
            except (ValueError, AssertionError, RecursionError):
                parser.exit(2, f"error: {option_string} {word}: write KEY=VALUE, e.g. train_cfg.max_epochs=2\n")
            read.update(vars(namespace)[self.dest])
        vars(namespace)[self.dest] = read


def add_cfg_options(parser: ArgumentParser) -> None:
    """Add the option that every tool over a config has."""
    parser.add_argument("--cfg-options", nargs="+", action=Overrides, metavar="KEY=VALUE", help="override config keys")


def add_launcher(parser: ArgumentParser) -> None:
    """Add the options by which several processes are started."""
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=SUPPRESS)


def add_teacher(parser: ArgumentParser, recipes: str) -> None:
    """Add the options that name the teacher of the recipes that another option names."""
    for option, word, what in (("--teacher", "CONFIG", "config"), ("--teacher-checkpoint", "PTH", "checkpoint")):
        help_text = f"with {recipes}: the teacher's {what}, or several"
        parser.add_argument(option, nargs="+", action="extend", metavar=word, help=help_text)


class _DeviceData(Action):
    """Overrides the config by the hook that holds the training images on the device."""

    def __call__(self, parser: ArgumentParser, namespace: Any, values: Any, option_string: str | None = None) -> None:
        overrides = {"default_hooks.device_loader.type": "kd_mm.DeviceLoader"}
        namespace.cfg_options = {**(namespace.cfg_options or {}), **overrides}


def add_device_data(parser: ArgumentParser) -> None:
    """Add the option of tools that train; :func:`add_cfg_options` adds what it sets."""
    text = "hold the training images on the device and augment them there, in batches (kd_mm.DeviceLoader)"
    parser.add_argument("--device-data", nargs=0, action=_DeviceData, help=text)


def run(
    name: str,
    description: str,
    command: Callable[[Namespace], object],
    add_options: Callable[[ArgumentParser], None],
    argv: Sequence[str] | None = None,
) -> int:
    """Run a command; wrong input becomes one line on standard error, an interruption two.

    An error of a training step is no wrong input and has its traceback (:func:`kd_mm.apis.runner.train`). The further
    lines of a message, such as a table of stages, go to standard output.

    Args:
        name: The subcommand of ``kd-mm``.
        description: What it does, for its help.
        command: Takes the parsed arguments, and ``command``, the command line that goes on after an interruption. It
            may raise ``KeyboardInterrupt`` with what is saved, and change ``command``.
        add_options: Adds its options to a parser; with ``--traceback``, which all have, every error passes as it is.
        argv: The words (default: those of the process).

    Returns:
        The exit status: 0, 2 for wrong input, or 130 where the user interrupted it.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(words)
    processes = os.environ.get("LOCAL_WORLD_SIZE")  # torchrun's
    start = ["torchrun", "--nproc_per_node", processes, sys.argv[0]] if processes else ["kd-mm", name]
    args.command = shlex.join([*start, *words])
    try:
        command(args)
    except (KeyboardInterrupt, SyntaxError) as interrupt:
        # The engine makes a SyntaxError of one that comes while it formats a config, which takes a second.
        formatting = isinstance(interrupt, SyntaxError)
        if args.traceback or (formatting and not isinstance(interrupt.__context__, KeyboardInterrupt)):
            raise
        saved = "nothing has begun" if formatting else str(interrupt) or "no complete result is saved"
        if os.environ.get("RANK", "0") == "0":
            print(f"interrupted: {saved}\ngo on with: {args.command}", file=sys.stderr, flush=True)
        return 130
    except Exception as error:
        from kd_mm.utils.suggest import describe_error, place

        # Errors that input may cause, and those of classes of kd_mm, need no traceback.
        kinds = (ValueError, TypeError, KeyError, OSError, ImportError, AssertionError, NotImplementedError)
        clear = isinstance(error, kinds) or type(error).__module__.startswith("kd_mm.")
        if args.traceback or not clear:
            raise
        first, *others = describe_error(error).splitlines()
        if others:
            print("\n".join(others), flush=True)
        first += place(error) if first == f"KeyError: {error}" else ""
        print(f"error: {first.rstrip(':')}  (--traceback shows where)", file=sys.stderr, flush=True)
        return 2
    return 0
