"""Hears what the image decoders say of a damaged file: libjpeg warns on stderr, and makes a picture all the same."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator

from kd_mm.engine.console import console_to

_DAMAGE = re.compile(
    r"corrupt jpeg data|premature end of jpeg|invalid jpeg file structure|inconsistent progression|libpng error", re.I
)
#: Bytes between the picture and its end marker, which some cameras leave; damage leaves more, or other words.
_STRAY, _FEW = re.compile(r"(\d+) extraneous bytes before marker 0xd9"), 8
_listening = threading.RLock()


@contextlib.contextmanager
def decoder_words() -> Iterator[list[str]]:
    """Collect the lines about damage that are written to stderr inside; other lines are passed on afterwards.

    Yields:
        The lines, filled at the end; none where another thread listens already, since a process has one stderr.
    """
    heard: list[str] = []
    if not _listening.acquire(blocking=False):
        yield heard
        return
    rest: list[str] = []
    try:
        with tempfile.TemporaryFile() as file:
            try:
                with console_to(file.fileno(), (2,)):
                    yield heard
            finally:
                file.seek(0)
                for line in file.read().decode(errors="replace").splitlines(keepends=True):
                    (heard if _is_damage(line) else rest).append(line)
                heard[:] = dict.fromkeys(line.strip() for line in heard)
    finally:
        _listening.release()
        if rest:
            os.write(2, "".join(rest).encode())


def _is_damage(line: str) -> bool:
    stray = _STRAY.search(line)
    return int(stray[1]) > _FEW if stray else _DAMAGE.search(line) is not None
