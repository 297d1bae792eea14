"""Text of any encoding that is recognised without being declared."""

from __future__ import annotations

import codecs
from pathlib import Path

#: What a file is that begins so, and how it becomes another.
_OTHER_FILES = {
    b"PK\x03\x04": "a zip archive: unpack it",
    b"\x1f\x8b": "compressed by gzip: unpack it",
    b"version https://git-lfs": "a pointer of Git LFS to a file that is not here: git lfs pull",
    b"\x89HDF": "an HDF5 file, as Keras writes: convert its weights by torch.save",
    b"<!DOCTYPE": "a web page, not what was to be downloaded",
    b"{": "JSON, which holds no weights: name the file of the weights",
    b"<html": "a web page, not what was to be downloaded",
}


def other_file(head: bytes) -> str:
    """Return what else a file is than text, an image or a checkpoint, by its first bytes; empty if not known."""
    return next((what for start, what in _OTHER_FILES.items() if head.startswith(start)), "")


def decode(content: bytes, origin: str | Path) -> str:
    """Decode UTF-8 with or without a byte order mark, or UTF-16.

    Args:
        content: The bytes of the file.
        origin: Its name, for the message.

    Raises:
        ValueError: It is neither.
    """
    encoding = "utf-8-sig"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif 0 in content[:2]:
        encoding = "utf-16-le" if content[0] else "utf-16-be"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        if what := other_file(content):
            raise ValueError(f"{origin} is {what}") from None
        raise ValueError(
            f"{origin} is text neither of UTF-8 nor of UTF-16 ({error.reason}): save it as UTF-8"
        ) from None
