"""Files that appear complete or not at all: written under a temporary name in the same folder, then renamed."""

import contextlib
import io
import os
from pathlib import Path
from typing import Any, ClassVar

import torch
from mmengine.fileio import LocalBackend, register_backend

ATOMIC_BACKEND = "kd_mm.AtomicLocalBackend"


def replace_file(path: str | Path, content: bytes) -> None:
    """Write the complete content of a file so that a reader, or a crash, sees the old file or the new one.

    Its folder is created if missing.

    Raises:
        OSError: The content could not be written (full disk, no permission). An earlier file at ``path`` is unchanged.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
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
        reason = f"cannot write {path} ({len(content) / 2**20:.1f} MiB): {error.strerror or error}"
        advice = "The earlier files are unchanged: free some space or change the folder, then resume."
        raise OSError(error.errno, f"{reason}. {advice}") from error


def save_atomically(state: Any, path: str | Path) -> None:
    """Write what ``torch.load(weights_only=True)`` reads, complete or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    replace_file(path, buffer.getvalue())


class AtomicLocalBackend(LocalBackend):
    """mmengine's local storage with atomic writes: ``backend_args=dict(backend="kd_mm.AtomicLocalBackend")``.

    ``CheckpointHook`` removes an old checkpoint before it writes the new one. Here the removal waits for the next
    write, so that a killed run always has a checkpoint to resume from.
    """

    _obsolete: ClassVar[list[str]] = []  # of all instances: mmengine makes a new one for each write

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes, see :func:`replace_file`; then remove the files whose removal was waiting."""
        replace_file(filepath, obj)
        while self._obsolete:
            path = self._obsolete.pop()
            if path != str(filepath) and self.isfile(path):
                super().remove(path)

    def remove(self, filepath: str | Path) -> None:
        """Remove a file as soon as the next one is written."""
        self._obsolete.append(str(filepath))


register_backend(ATOMIC_BACKEND, AtomicLocalBackend, force=True)
