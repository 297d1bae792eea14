"""Files that appear whole or not at all: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

ATOMIC_BACKEND = "kd_mm.atomic"
_PART = ".part"


def replace_file(path: str | Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that a reader, or a crash, sees the old file or the new one and nothing between.

    Args:
        path: The file to make or to replace. Its folder is made if missing.
        content: The whole content, bytes.

    Raises:
        OSError: The content could not be written (full disk, no permission). What stood at ``path`` is untouched.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}{_PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise OSError(error.errno, _failure(path, len(content), error)) from error
    _sync_folder(path.parent)


def remove_leftovers(folder: str | Path) -> list[Path]:
    """Delete the temporary files that a killed run left in ``folder``.

    Returns:
        The files that were deleted.
    """
    leftovers = sorted(Path(folder).glob(f".*{_PART}"))
    for part in leftovers:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
    return leftovers


def _failure(path: Path, size: int, error: OSError) -> str:
    try:
        free = f"{shutil.disk_usage(path.parent).free / 2**20:.0f} MiB are free there"
    except OSError:
        free = "the folder cannot be read"
    return (
        f"cannot write {path} ({size / 2**20:.1f} MiB): {error.strerror or error}; {free}. "
        "The earlier files are untouched: make room or change the folder, then resume."
    )


def _sync_folder(folder: Path) -> None:
    # The new name itself survives a power cut only once the folder is on disk; not every system can open a folder.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class AtomicLocalBackend(LocalBackend):
    """mmengine's local storage, with writes that are whole or absent. ``backend_args=dict(backend='kd_mm.atomic')``."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes; see :func:`replace_file`."""
        replace_file(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """Write text; see :func:`replace_file`."""
        replace_file(filepath, obj.encode(encoding))


register_backend(ATOMIC_BACKEND, AtomicLocalBackend, force=True)
