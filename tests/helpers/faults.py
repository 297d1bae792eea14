"""Faults of files and of processes: code in a pickle, death in an iteration or a file operation, a full disk."""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.runner import EpochBasedTrainLoop


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def die(number: int = signal.SIGKILL) -> None:
    """End this process as a crash does, or by another signal."""
    os.kill(os.getpid(), number)


def arm(kill: Mapping[str, Any]) -> None:
    """Die for real before a training iteration, or inside a file operation.

    Args:
        kill: ``iteration``; or ``call`` of the module os, part of the target's ``name``, at the ``nth`` time, and
            ``within`` which folder; and ``signal`` if not SIGKILL.
    """
    number = kill.get("signal", signal.SIGKILL)
    if "iteration" in kill:
        _before_iteration(kill["iteration"], number)
    else:
        _in_file_operation(kill["call"], kill["name"], kill.get("nth", 1), kill.get("within", ""), number)


def _before_iteration(iteration: int, number: int) -> None:
    run_iter = EpochBasedTrainLoop.run_iter

    def deadly(loop: EpochBasedTrainLoop, *args: object) -> None:
        if loop.iter == iteration:
            die(number)
        run_iter(loop, *args)

    EpochBasedTrainLoop.run_iter = deadly


def _in_file_operation(call: str, name: str, nth: int, within: str, number: int) -> None:
    original: Callable[..., Any] = getattr(os, call)
    left = [nth]

    def deadly(*args: Any) -> Any:
        by_handle = call == "fsync"
        names = [os.readlink(f"/proc/self/fd/{args[0]}")] if by_handle else [str(each) for each in args]
        meant = any(name in os.path.basename(each) and within in each for each in names)
        if meant and not os.path.isdir(names[0]):
            left[0] -= 1
            if left[0] == 0:
                if by_handle:
                    os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
                die(number)
        return original(*args)

    setattr(os, call, deadly)


def fill_disk(name: str) -> None:
    """Let the disk be full for every file whose name holds ``name``."""
    original = os.fsync

    def full(handle: int) -> None:
        if name in os.path.basename(os.readlink(f"/proc/self/fd/{handle}")):
            raise OSError(28, "No space left on device")
        original(handle)

    os.fsync = full
