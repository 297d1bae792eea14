"""Folders of generated data: written whole or not at all, kept where they are, never mixed with other data."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def write_once(folder: Path, note: str, made_by: Mapping[str, Any], what: str, fill: Callable[[Path], object]) -> Path:
    """Write a folder unless it is there; several processes may ask at once.

    Args:
        folder: The folder; the one that holds it is made if missing.
        note: Name of a file in it that tells by what it was made.
        made_by: What the content depends on.
        what: What it holds, for the error, e.g. ``"these scenes"``.
        fill: Writes the content into an empty folder.

    Returns:
        ``folder``.

    Raises:
        ValueError: The folder is there and was made by something else.
        OSError: It could not be written.
    """
    text = json.dumps(dict(made_by), sort_keys=True)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            part.chmod(0o755)
            fill(part)
            (part / note).write_text(text)
            part.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was faster
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    if not (folder / note).is_file() or (folder / note).read_text() != text:
        raise ValueError(f"{folder} holds other data than {what}; remove it or give another data_root")
    return folder
