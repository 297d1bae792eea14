"""A run that failed before its first step leaves its work dir as it was."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import walk_tb
from types import TracebackType

from mmengine.dist import is_main_process

_TIMESTAMP = re.compile(r"\d{8}_\d{6}")
#: Methods of the engine's loops that go through the data.
_RUNNING = {"run_epoch", "run_iter"}


@contextmanager
def as_before(work_dir: str) -> Iterator[None]:
    """Undo what a start writes, where an error comes up before the first step.

    That is the written config (an earlier one comes back), the folder of the log, and the work dir itself where it is
    new and empty. A start that leaves anything else, such as the teacher's exits, keeps all of it.

    Args:
        work_dir: The run's work dir.
    """
    folder = Path(work_dir).absolute()
    new_folders = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    before = {path.name: _config_text(path) for path in folder.iterdir()} if folder.is_dir() else {}
    try:
        yield
    except Exception as error:
        if is_main_process() and not _ran(error.__traceback__):
            with suppress(OSError):
                _undo(folder, before, new_folders)
        raise


def _undo(folder: Path, before: dict[str, bytes | None], new_folders: list[Path]) -> None:
    new = [path for path in folder.iterdir() if path.name not in before] if folder.is_dir() else []
    logs = [path for path in new if path.is_dir() and _TIMESTAMP.fullmatch(path.name)]
    configs = [path for path in new if path.suffix == ".py"]
    if len(logs) > 1 or len(logs) + len(configs) < len(new):
        return
    for path in configs:
        path.unlink()
    for name, text in before.items():
        if text is not None and (folder / name).read_bytes() != text:
            (folder / name).write_bytes(text)
    for path in logs:
        shutil.rmtree(path)
    for path in new_folders:
        path.rmdir()  # fails, and so ends this, at the first that holds something


def _config_text(path: Path) -> bytes | None:
    return path.read_bytes() if path.suffix == ".py" and path.is_file() else None


def _ran(where: TracebackType | None) -> bool:
    return any(frame.f_code.co_name in _RUNNING for frame, _ in walk_tb(where))
