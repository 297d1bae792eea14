"""Text files as people write them: encodings, lists of images."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmengine.fileio import get

#: The second column of Pascal VOC's lists of one class: the image lacks it, has only difficult ones, has it.
_MARK = re.compile(r"[\s,;]+(-1|0|1)")
_BETWEEN = re.compile(r"[\s,;]+")


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


def read_text(path: str | Path, backend_args: dict[str, Any] | None = None) -> str:
    """Read a text file of any of :func:`decode`'s encodings, from the disk or from a storage of the engine.

    Raises:
        ValueError: It has another encoding, or is a folder.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder, not a text file")
    return decode(get(str(path), backend_args=backend_args), path)


def read_lines(path: str | Path, backend_args: dict[str, Any] | None = None) -> list[str]:
    """Return the lines of a text file without blanks at their ends, and without empty ones."""
    return [line.strip() for line in read_text(path, backend_args).splitlines() if line.strip()]


def name_in_line(line: str, folder: str, exists: Callable[[str], bool]) -> tuple[str, str]:
    """Return the image that a line of a list names, and what follows the name in it.

    The line may name an image with or without quotes, its ending or folders before it, and may have further columns:
    the longest beginning that names an existing image is taken.

    Args:
        line: Without blanks at its ends.
        folder: The folder of the images, whose own name may come before that of an image.
        exists: Whether there is an image of a name, which may lack the ending.

    Returns:
        The name, and the rest; the line itself and nothing where no beginning names an image.
    """
    breaks = [(found.start(), found.end()) for found in _BETWEEN.finditer(line)]
    for end, begin in [(len(line), len(line)), *reversed(breaks)]:
        for name in _spellings(line[:end].strip("\"'"), folder):
            if exists(name):
                return name, line[begin:]
    return line, ""


def without_marks(lines: list[str]) -> list[str]:
    """Return lines without a second column of -1, 0 and 1, where all of them have one."""
    ends = [next((found.start() for found in _MARK.finditer(line) if found.end() == len(line)), 0) for line in lines]
    return [line[:end] for line, end in zip(lines, ends, strict=True)] if all(ends) else lines


def _spellings(path: str, folder: str) -> Iterator[str]:
    """Yield the names that a path may mean: itself, and without the folders before it that lead to the images."""
    yield path
    path = path.replace("\\", "/").removeprefix("./")
    yield path
    parts, images = path.split("/"), Path(folder).absolute().parts
    absolute = path.startswith("/") or parts[0].endswith(":")  # perhaps of another machine
    for number in range(1, len(parts)):
        if absolute or tuple(parts[:number]) == images[-number:]:
            yield "/".join(parts[number:])
