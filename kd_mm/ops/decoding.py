"""Text of any encoding that is recognised without being declared."""

from __future__ import annotations

import codecs
from pathlib import Path


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
        raise ValueError(
            f"{origin} is text neither of UTF-8 nor of UTF-16 ({error.reason}): save it as UTF-8"
        ) from None
