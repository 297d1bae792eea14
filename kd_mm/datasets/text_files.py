"""Text files as people write them: encodings, lists of images."""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from mmengine.fileio import get

from kd_mm.datasets.image_files import ImageFolder, without_suffix
from kd_mm.ops.decoding import decode
from kd_mm.utils.suggest import join_first

#: The second column of Pascal VOC's lists of one class: the image lacks it, has only difficult ones, has it.
_MARK = re.compile(r"[\s,;]+(-1|0|1)")
#: Characters without a width that web pages and editors leave in text.
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060\ufeff]")
#: A class with its number before or behind it.
_NUMBERED = (
    re.compile(r"(?P<number>\d+)[\s:,;.)]+(?P<name>.+)"),
    re.compile(r"(?P<name>.+?)\s*[,;\t]\s*(?P<number>\d+)"),
)
#: A class of CVAT's ``labelmap.txt``: name, colour, parts, actions.
_PAINTED = re.compile(r"[^:]+:[\d,]*:[^:]*:[^:]*")
_BETWEEN = re.compile(r"[\s,;]+")


def read_text(path: str | Path, backend_args: dict[str, Any] | None = None) -> str:
    """Read a UTF-8 or UTF-16 text file, from the disk or from a storage of the engine.

    Raises:
        ValueError: It has another encoding, or is a folder.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder, not a text file")
    return decode(get(str(path), backend_args=backend_args), path)


def read_lines(path: str | Path, backend_args: dict[str, Any] | None = None) -> list[str]:
    """Return the lines of a text file without blanks at their ends and invisible characters, and no empty ones."""
    lines = [_INVISIBLE.sub("", line).strip() for line in read_text(path, backend_args).splitlines()]
    return [line for line in lines if line]


def read_names(path: str | Path) -> list[str]:
    """Return the class names in a file: JSON or YAML, or one name a line, or one line with commas.

    JSON and YAML hold a list, names by their numbers or numbers by their names, also below ``names``. Comments, quotes
    around names, commas behind those, numbers before or behind names that count the lines, a header above such, and
    what CVAT's label maps have beside the names are left out.
    """
    lines = [line for line in read_lines(path) if not line.startswith("#")]
    if lines and (lines[0][0] in "[{" or Path(path).suffix.lower() in (".yaml", ".yml")):
        with contextlib.suppress(yaml.YAMLError, ValueError, TypeError):
            content = yaml.load(read_text(path), yaml.BaseLoader)  # which leaves words such as "no" as they are
            content = content.get("names", content) if isinstance(content, dict) else content
            if isinstance(content, dict) and all(map(str.isdigit, content)):
                content = dict(sorted(content.items(), key=lambda item: int(item[0]))).values()
            elif isinstance(content, dict):
                content = sorted(content, key=lambda name: int(content[name]))
            if not isinstance(content, str):
                return list(content)
    if lines and all(_PAINTED.fullmatch(line) for line in lines):
        names = [line.partition(":")[0] for line in lines]
        return [name for name in names if name != "background"]
    if len(lines) == 1:
        lines = [name.strip() for name in lines[0].split(",") if name.strip()]
    for rows, pattern in itertools.product((lines, lines[1:]), _NUMBERED):
        found = [row for line in rows if (row := pattern.fullmatch(line))]
        numbers, names = [int(row["number"]) for row in found], [row["name"] for row in found]
        if rows and numbers in (list(range(len(rows))), list(range(1, len(rows) + 1))) and len({*names}) == len(rows):
            lines = names
            break
    return [name[1:-1] if re.fullmatch(r"(['\"]).+\1", name := line.rstrip(",")) else line for line in lines]


def names_in_list(lines: list[str], images: ImageFolder, annotations: str) -> tuple[list[str], str]:
    """Return the images that the lines of a list name, without their endings.

    A line may name an image with or without quotes, its ending or folders before it, or its annotation file, and may
    have further columns: the longest beginning that names an existing image is used, or the line where none does. Other
    lines that begin with ``#`` are comments.

    Args:
        lines: Without blanks at their ends.
        images: The folder that they are in.
        annotations: The name of the folder of their annotation files.

    Returns:
        The names, and one line on further columns, empty where there are none.
    """
    names, rests = [], []
    if len(lines) == 1:  # such as a.jpg, b.jpg, c.jpg
        parts = [part.strip() for part in lines[0].split(",")]
        lines = parts if all(images.find(part) for part in parts) else lines
    for line in lines:
        name, rest = _name_in_line(line, images, annotations)
        found = images.find(name)
        if found is None and line.startswith("#"):
            continue
        names.append(without_suffix(os.path.relpath(found, images.root) if found else name))
        rests += [rest] if rest else []
    if not rests:
        return names, ""
    marks = f"-1, 0 and 1 of a list of one class: all images are kept, those of -1 ({rests.count('-1')}) too"
    columns = marks if set(rests) <= {"-1", "0", "1"} else f"not read ({join_first(list(dict.fromkeys(rests)))})"
    return names, f"{len(rests)} of {len(lines)} lines have more than the image's name: {columns}"


def without_marks(lines: list[str]) -> list[str]:
    """Return lines without a second column of -1, 0 and 1, where all of them have one."""
    ends = [next((found.start() for found in _MARK.finditer(line) if found.end() == len(line)), 0) for line in lines]
    return [line[:end] for line, end in zip(lines, ends, strict=True)] if all(ends) else lines


def _name_in_line(line: str, images: ImageFolder, annotations: str) -> tuple[str, str]:
    breaks = [(found.start(), found.end()) for found in _BETWEEN.finditer(line)]
    for end, begin in [(len(line), len(line)), *reversed(breaks)]:
        for name in _spellings(line[:end].strip("\"'"), images.root, annotations):
            if images.find(name) is not None:
                return name, line[begin:]
    return line, ""


def _spellings(path: str, folder: str, annotations: str) -> Iterator[str]:
    """Yield the names that a path may mean: itself, and without the folders before it that lead to the images."""
    yield path
    path = path.replace("\\", "/").removeprefix("./")
    yield path
    if path.endswith(".xml"):
        yield path[:-4].removeprefix(f"{annotations}/")
    parts, images = path.split("/"), Path(folder).absolute().parts
    absolute = path.startswith("/") or parts[0].endswith(":")  # perhaps of another machine
    for number in range(1, len(parts)):
        if absolute or tuple(parts[:number]) == images[-number:]:
            yield "/".join(parts[number:])
