"""The console command ``kd-mm``: each tool is a subcommand."""

import _thread
import contextlib
import importlib
import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from kd_mm.utils.suggest import nearest

#: Module of :mod:`kd_mm.cli` by subcommand.
COMMANDS = {
    "train": "train",
    "test": "test",
    "compare": "compare",
    "export": "export_student",
    "convert": "convert_checkpoint",
    "stages": "stages",
    "retrieval": "visualize_ranking",
    "benchmark": "benchmark",
    "quickstart": "quickstart",
    "doctor": "check_env",
}


def usage() -> str:
    """Return the list of subcommands, each with the first line of its module's docstring."""
    lines = ["usage: kd-mm COMMAND [arguments]     (kd-mm COMMAND --help shows its arguments)", ""]
    for command, name in COMMANDS.items():
        about = (importlib.import_module(f"kd_mm.cli.{name}").__doc__ or "").splitlines()[0]
        lines.append(f"  {command:<12}{about}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: Subcommand and its arguments (default: those of the process).

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    if words[0] not in COMMANDS:
        print(f"error: no command {words[0]!r}{nearest(words[0], COMMANDS)}", file=sys.stderr)
        return 2
    if argv is None:
        sys.argv[0] = f"kd-mm {words[0]}"  # the name in usage lines
    with _no_interruption_lost():
        try:
            command = importlib.import_module(f"kd_mm.cli.{COMMANDS[words[0]]}")
        except KeyboardInterrupt:
            print(f"interrupted: nothing has begun\ngo on with: {shlex.join(['kd-mm', *words])}", file=sys.stderr)
            return 130
        status: int = command.main(words[1:])
        return status


@contextlib.contextmanager
def _no_interruption_lost() -> Iterator[None]:
    """Have Ctrl-C come again where Python ignores it: in callbacks, such as those of weak references."""
    report = sys.unraisablehook

    def report_others(ignored: Any) -> None:
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            threading.Timer(0.1, _thread.interrupt_main).start()
        else:
            report(ignored)

    sys.unraisablehook = report_others
    try:
        yield
    finally:
        sys.unraisablehook = report


if __name__ == "__main__":
    sys.exit(main())
