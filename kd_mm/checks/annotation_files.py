"""What is in annotation files of upstream's data sets, and why upstream cannot read one."""

from __future__ import annotations

import inspect
import json
import logging
import math
import mmap
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DATASETS, EVALUATOR, METRICS, TRANSFORMS, DefaultScope, Registry

from kd_mm.datasets.text_files import read_lines, read_text
from kd_mm.datasets.voc_annotation import parse_annotation
from kd_mm.utils.config import as_list, data_sets
from kd_mm.utils.samples import describe_failure
from kd_mm.utils.suggest import join_first

#: Bytes of a COCO file whose boxes are read a second time, in about a second.
_PARSED = 20_000_000
#: What upstream reads of each entry of a COCO file.
_NEEDED = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
    "categories": ("id", "name"),
}
#: Entries of these keys that are numbers, and how many.
_NUMBERS = {"width": 1, "height": 1, "area": 1, "bbox": 4}
#: A line of mmpretrain's lists: an image, and the number of its class.
_LABELLED = re.compile(r".+[\s,;](-?\d+)")


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


def no_object(dataset: BaseDataset, count: int) -> str:
    """Return one line on a detection set of ``count`` images without any object of its class list to learn from."""
    classes = list(dataset.metainfo["classes"])
    ignored = sum(len(dataset.get_data_info(index).get("instances") or ()) for index in range(len(dataset)))
    if ignored:
        return (
            f"all {ignored} objects of its {count} images are marked as difficult, as a crowd (iscrowd) or as too "
            "small, or have no area inside of their image: training and evaluation leave such objects out"
        )
    there, content = categories(dataset.ann_file) or _names_in_xml(dataset), _content(dataset.ann_file)
    problem = dataset.ann_file.endswith(".json") and _coco_problem(dataset.ann_file)
    unlinked = f"{dataset.ann_file}: {problem}" if problem else _unlinked(content)
    if not there or unlinked:
        remedy = unlinked or "the annotations hold no object"
    elif odd := [name for name in there if name != name.strip()]:
        remedy = f"names in the annotations have blanks at their ends ({join_first(list(map(repr, odd)))}): remove them"
    elif known := [name for name in there if name in classes]:
        why = _left_out(content, classes) or f"are the boxes of {known[0]!r} in pixels?"
        remedy = f"the annotations have {join_first(there)}: {why}"
    else:
        remedy = (
            f"the annotations have {join_first(there)}: set metainfo=dict(classes=(...)) of every data set and "
            "num_classes of the model"
        )
    return f"no object of {count} images is of the class list ({join_first(classes)}); {remedy}"


def has_area(item: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
    """Return whether the box of an object has an area inside of its image; boxes of other forms count as such."""
    box, width, height = list(item.get("bbox") or ()), image.get("width"), image.get("height")
    if len(box) != 4 or not width or not height:
        return True
    return bool(min(box[2], width) > max(box[0], 0) and min(box[3], height) > max(box[1], 0))


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
    content = _content(file) if os.path.isfile(file) and os.path.getsize(file) <= _PARSED else {}
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
    if why := _left_out(content, classes):
        print_log(f"{key}: {file}: {why}; they are left out", "current", logging.WARNING)


def _content(file: str) -> dict[str, Any]:
    """Return what is in a COCO file, nothing where it is another file."""
    try:
        content = json.loads(read_text(file))
        return content if isinstance(content, dict) and {*_NEEDED} <= content.keys() else {}
    except (OSError, ValueError):
        return {}


def _unlinked(content: dict[str, Any]) -> str:
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


def _left_out(content: dict[str, Any], classes: Sequence[str]) -> str:
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
            found["narrower or lower than a pixel (are they in pixels?)"] += 1
        elif left >= size[0] or top >= size[1] or left + width <= 0 or top + height <= 0:
            found["outside of their image"] += 1
        elif entry["area"] <= 0:
            found["with an 'area' of 0, which is to be width times height"] += 1
    listed = ", ".join(f"{count} {reason}" for reason, count in found.items())
    return f"of {len(boxes)} boxes of the class list there are {listed}" if found else ""


def _names_in_xml(dataset: BaseDataset) -> list[str]:
    names: dict[str, None] = {}
    for index in range(min(len(dataset), 100)):
        path = dataset.get_data_info(index).get("xml_path")
        if path and os.path.isfile(path):
            names.update((item.name, None) for item in parse_annotation(Path(path).read_bytes()).objects)
    return list(names)


def explain_annotations(config: Mapping[str, Any]) -> None:
    """Look for what stops upstream from reading the annotations of a config's data sets.

    Raises:
        ValueError: A COCO file is no JSON or lacks what upstream reads; a line of a list is no image and the number of
            its class; or a filter leaves no image of a data set because none has an object of its class list (upstream:
            "need at least one array to concatenate").
    """
    parts = [(key, part) for key, given in data_sets(config) for part in _reading_files(given)]
    with DefaultScope.overwrite_default_scope(config.get("default_scope")):
        for key, part in parts:
            file = os.path.join(part.get("data_root") or "", part.get("ann_file") or f"meta/{part.get('split')}.txt")
            kind = DATASETS.get(part["type"]) if isinstance(part["type"], str) else part["type"]
            if inspect.isclass(kind) and not issubclass(kind, BaseDataset):
                continue  # it has options and files of its own
            is_coco = "Coco" in str(part["type"]) or (inspect.isclass(kind) and issubclass(kind, CocoDataset))
            if is_coco and os.path.isfile(file) and (problem := _coco_problem(file)):
                raise ValueError(f"{key}: {file}: {problem}")
            is_list = str(part.get("type")).rpartition(".")[2] in ("CustomDataset", "ImageNet")
            if is_list and os.path.isfile(file) and part.get("with_label", True):
                _check_list(key, file)
            if part.get("filter_cfg"):
                dataset = DATASETS.build({**part, "filter_cfg": None, "test_mode": True})
                if not any(dataset.get_data_info(index).get("instances", True) for index in range(len(dataset))):
                    raise ValueError(f"{key}: {no_object(dataset, len(dataset))}")
            if not len(DATASETS.build({**part, "serialize_data": False})):  # upstream fails on none
                names = ("data_root", "ann_file", "split", "filter_cfg")
                options = ", ".join(f"{name}={part[name]!r}" for name in names if name in part)
                raise ValueError(f"{key}: {part['type']}({options}) has no sample")


def explain_steps(config: Mapping[str, Any]) -> None:
    """Look for the step of a config's pipelines, or the metric, that cannot be built.

    Raises:
        ValueError: Naming its key and its options.
    """
    for key in ("val_evaluator", "test_evaluator"):
        for metric in as_list(config.get(key)):
            if isinstance(metric, Mapping):
                _try(EVALUATOR if "metrics" in metric else METRICS, metric, key, config)
    for key, part in data_sets(config):
        name = f"{key}.dataset"
        while isinstance(part, Mapping):
            for number, step in enumerate(part.get("pipeline") or ()):
                _try(TRANSFORMS, step, f"{name}.pipeline.{number}", config)
            part, name = part.get("dataset"), f"{name}.dataset"


def _try(registry: Registry, part: Mapping[str, Any], key: str, config: Mapping[str, Any]) -> None:
    try:
        with DefaultScope.overwrite_default_scope(config.get("default_scope")):
            registry.build(part)
    except Exception as error:
        options = ", ".join(
            f"{option}={value!r}" for option, value in part.items() if option not in ("type", "_scope_")
        )
        raise ValueError(f"{key}: {part.get('type')}({options}) fails: {describe_failure(error)}") from error


def _coco_problem(file: str) -> str:
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
            lacking = sum(key not in entry for entry in entries)
            if lacking:
                hint = ", which is width times height of the box where it is not measured" if key == "area" else ""
                return f"{lacking} of its {len(entries)} {table} have no {key!r}{hint}"
            wrong = [entry for entry in entries if key in _NUMBERS and not _are_numbers(entry[key], _NUMBERS[key])]
            if wrong:
                what = "a number" if _NUMBERS[key] == 1 else "a list of four numbers"
                first = f"in {table} of id {wrong[0].get('id')!r} it is {wrong[0][key]!r}"
                return f"{len(wrong)} of its {len(entries)} {table} have a {key!r} that is not {what}: {first}"
    return ""


def _are_numbers(value: Any, count: int) -> bool:
    values = value if isinstance(value, list) else [value]
    return len(values) == count and all(isinstance(each, int | float) and math.isfinite(each) for each in values)


def _check_list(key: str, file: str) -> None:
    """Stop at a line of a list of images that names no class.

    Raises:
        ValueError: Naming the line.
    """
    lines = read_lines(file)
    wrong = [(number, line) for number, line in enumerate(lines, 1) if not _LABELLED.fullmatch(line)]
    if wrong or not lines:
        first = f"line {wrong[0][0]} is {wrong[0][1]!r}" if wrong else "it is empty"
        raise ValueError(
            f"{key}: {file}: {first}, of {len(lines)} lines {len(wrong)} are no image and the number of its class: "
            "write 'folder/image.png 2', classes from 0"
        )


def _reading_files(part: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the configs of data sets that read files in the config of a data set."""
    if isinstance(part, Mapping):
        if "type" in part and ("ann_file" in part or "data_root" in part):
            yield part
        part = list(part.values())
    for item in part if isinstance(part, list | tuple) else ():
        yield from _reading_files(item)
