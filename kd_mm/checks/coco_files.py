"""COCO annotation files: what upstream cannot read of one, and what it leaves out in silence."""

from __future__ import annotations

import json
import logging
import math
import mmap
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmengine.logging import print_log

from kd_mm.datasets.text_files import read_text
from kd_mm.utils.suggest import join_first

#: Bytes of a COCO file whose boxes are read a second time, in about a second.
_PARSED = 20_000_000
#: What upstream reads of each entry of a COCO file.
_NEEDED = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
    "categories": ("id", "name"),
}
#: Entries of these keys that are numbers, and how many, and those that are text.
_NUMBERS = {"width": 1, "height": 1, "area": 1, "bbox": 4}
_TEXTS = ("file_name", "name")


def categories(file: str) -> list[str]:
    """Return the names of the categories of a COCO annotation file, in its order; empty where it is no such file."""
    return [str(category["name"]) for category in read_table(file, "categories")]


def read_table(file: str, name: str) -> list[Any]:
    """Return one list of a COCO annotation file on this disk without parsing the rest; empty where it has none."""
    try:
        with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            begin = content.find(b"[", content.rfind(f'"{name}"'.encode()))
            text = content[begin:].decode("utf-8", "ignore")
        return list(json.JSONDecoder().raw_decode(text)[0])
    except (OSError, ValueError):
        return []


def check_entries(key: str, file: str, classes: Sequence[str]) -> None:
    """Stop at a COCO file of ids that mean two things; warn of boxes that upstream leaves out in silence.

    Args:
        key: The data set in the config, e.g. ``"train_dataloader"``.
        file: Read by upstream before. The boxes of one larger than 20 MB are not read again.
        classes: Of the data set.

    Raises:
        ValueError: Upstream would give objects to other images or classes by their ids, or the areas show boxes of two
            corners.
    """
    for table in ("images", "categories"):
        counts = Counter(entry["id"] for entry in read_table(file, table))
        if twice := [repr(number) for number, count in counts.items() if count > 1]:
            raise ValueError(
                f"{key}: {file}: {len(twice)} ids are those of two {table} ({join_first(twice)}): number them anew"
            )
    content = read_content(file) if os.path.isfile(file) and os.path.getsize(file) <= _PARSED else {}
    ids = {entry["id"] for entry in content.get("categories", ())}
    used = {entry["category_id"] for entry in content.get("annotations", ())}
    counted = all(isinstance(number, int) for number in ids | used) and not used <= ids
    if counted and any({number + step for number in used} <= ids for step in (1, -1)):
        raise ValueError(
            f"{key}: {file}: category_id of the annotations is from {min(used)} to {max(used)}, id of the categories "
            f"from {min(ids)} to {max(ids)}: number them alike"
        )
    boxes = [(entry["area"], *entry["bbox"]) for entry in content.get("annotations", ())]
    corners = all(math.isclose(area, (x2 - x1) * (y2 - y1), rel_tol=0.01) for area, x1, y1, x2, y2 in boxes)
    if corners and not all(math.isclose(area, x2 * y2, rel_tol=0.01) for area, x1, y1, x2, y2 in boxes):
        raise ValueError(
            f"{key}: {file}: the 'area' of all {len(boxes)} boxes is that between two corners: write bbox as "
            "[left, top, width, height]"
        )
    if why := left_out(content, classes):
        print_log(f"{key}: {file}: {why}; they are left out", "current", logging.WARNING)
    names = {entry["id"]: entry["name"] for entry in content.get("categories", ())}
    kinds = Counter(names.get(entry["category_id"]) for entry in content.get("annotations", ()))
    if foreign := [f"{name} ({count})" for name, count in kinds.most_common() if name not in (None, *classes)]:
        line = f"objects of classes that are not in the class list are left out: {join_first(foreign)}"
        print_log(f"{key}: {file}: {line}", "current", logging.WARNING)
    known = [entry for entry in content.get("annotations", ()) if names.get(entry["category_id"]) in classes]
    crowds = sum(entry.get("iscrowd") == 1 for entry in known)
    if crowds > len(known) // 5:
        line = f"{crowds} of {len(known)} boxes are marked as a crowd (iscrowd), and so neither learned nor scored"
        print_log(f"{key}: {file}: {line}", "current", logging.WARNING)


def read_content(file: str) -> dict[str, Any]:
    """Return what is in a COCO file, nothing where it is another file."""
    try:
        content = json.loads(read_text(file))
        return content if isinstance(content, dict) and {*_NEEDED} <= content.keys() else {}
    except (OSError, ValueError):
        return {}


def find_problem(file: str) -> str:
    """Return what is wrong with a COCO annotation file, empty if nothing."""
    try:
        content = json.loads(read_text(file))
    except ValueError as error:
        return f"it is not JSON ({error})"
    with open(file, "rb") as opened:
        if opened.read(1) not in (b"{", b"[", b" ", b"\n", b"\r", b"\t"):
            return "it begins with a byte order mark or is UTF-16: save it as UTF-8 without a mark"
    for table, keys in _NEEDED.items():
        entries = content.get(table) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            return f"it has no list {table!r}, as a COCO file has"
        if table == "images" and not entries:
            return "it lists no image"
        for key in keys:
            lacking = [entry for entry in entries if key not in entry]
            if lacking:
                hint = ", which is width times height of the box where it is not measured" if key == "area" else ""
                first = next((f" (id {entry['id']!r} first)" for entry in lacking if "id" in entry), "")
                return f"{len(lacking)} of its {len(entries)} {table}{first} have no {key!r}{hint}: write it there"
            wrong = [entry for entry in entries if not _fits(key, entry[key])]
            if wrong:
                what = {1: "a number", 4: "a list of four numbers"}.get(_NUMBERS.get(key, 0), "text")
                first = f"in {table} of id {wrong[0].get('id')!r} it is {wrong[0][key]!r}"
                return f"{len(wrong)} of its {len(entries)} {table} have a {key!r} that is not {what}: {first}"
    return ""


def _fits(key: str, value: Any) -> bool:
    if key not in _NUMBERS:
        return isinstance(value, str) or key not in _TEXTS
    values = value if isinstance(value, list) else [value]
    numbers = [each for each in values if isinstance(each, int | float) and math.isfinite(each)]
    return len(numbers) == len(values) == _NUMBERS[key]


def unlinked(content: dict[str, Any]) -> str:
    """Return why no annotation of a COCO file belongs to its images and categories, empty where one does."""
    annotations = content.get("annotations", ())
    if content and not annotations:
        return "the annotations hold no object"
    for table, key in (("images", "image_id"), ("categories", "category_id")) if content else ():
        used, ids = [entry[key] for entry in annotations], [entry["id"] for entry in content[table]]
        if not set(used) & set(ids):
            return (
                f"none of its {len(used)} annotations has the id of one of its {table}: {key} is {used[0]!r} and "
                f"so on, the {table} have {join_first(list(map(repr, ids)))}"
            )
    return ""


def left_out(content: dict[str, Any], classes: Sequence[str]) -> str:
    """Return how many boxes of a COCO file upstream leaves out, and why; empty where it reads all."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in content.get("images", ())}
    names = {category["id"]: category["name"] for category in content.get("categories", ())}
    read = {None, *classes}  # None: of an unknown category
    boxes = [entry for entry in content.get("annotations", ()) if names.get(entry["category_id"]) in read]
    found: Counter[str] = Counter()
    for entry in boxes:
        (left, top, width, height), size = entry["bbox"], sizes.get(entry["image_id"])
        if entry.get("ignore"):
            found["with 'ignore' set"] += 1
        elif isinstance(entry.get("iscrowd"), str):
            found["with text for 'iscrowd', which counts as a crowd"] += 1
        elif entry["category_id"] not in names:
            found["of a category that is not in the list"] += 1
        elif not all(map(math.isfinite, entry["bbox"])):
            found["with a number that is not finite"] += 1
        elif size is None:
            found["of an image that is not in the list"] += 1
        elif width < 1 or height < 1:
            found["narrower or lower than a pixel: write bbox in pixels"] += 1
        elif left >= size[0] or top >= size[1] or left + width <= 0 or top + height <= 0:
            found["outside of their image"] += 1
        elif entry["area"] <= 0:
            found["with an 'area' of 0, which is to be width times height"] += 1
    listed = ", ".join(f"{count} {reason}" for reason, count in found.items())
    return f"of {len(boxes)} boxes of the class list there are {listed}" if found else ""
