"""Folders of generated data: written atomically and once, never mixed with other data."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


def write_once(folder: Path, note: str, made_by: Mapping[str, Any], what: str, fill: Callable[[Path], object]) -> Path:
    """Write a folder unless it exists; several processes may ask at once.

    Args:
        folder: The folder; the one that holds it is made if missing.
        note: Name of a file in it that records ``made_by``.
        made_by: What the content depends on.
        what: What it holds, for the error, e.g. ``"these scenes"``.
        fill: Writes the content into an empty folder.

    Returns:
        ``folder``.

    Raises:
        ValueError: The folder exists and was made by something else.
        OSError: It could not be written.
    """
    text = json.dumps(dict(made_by), sort_keys=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.parent):
        if not folder.exists():
            part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            try:
                part.chmod(0o755)
                fill(part)
                (part / note).write_text(text)
                part.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was faster, where there are no locks
                    raise
            finally:
                shutil.rmtree(part, ignore_errors=True)
    if not (folder / note).is_file() or (folder / note).read_text() != text:
        raise ValueError(f"{folder} holds other data than {what}; remove it or give another data_root")
    return folder


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, where the file system has locks."""
    with contextlib.ExitStack() as ends:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            handle = os.open(folder, os.O_RDONLY)
            ends.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
