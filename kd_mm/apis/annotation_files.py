"""What is in annotation files of upstream's data sets, and why upstream cannot read one."""

from __future__ import annotations

import json
import math
import mmap
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope

from kd_mm.datasets.text_files import read_lines, read_text
from kd_mm.datasets.voc_annotation import parse_annotation
from kd_mm.utils.samples import describe_failure
from kd_mm.utils.suggest import join_first

#: More bytes than any list of categories takes in an annotation file.
_LIST_BYTES = 4_000_000
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
    """Return the names of the categories of a COCO annotation file, in its order, without reading the rest.

    Returns:
        The names; empty where the file is not on this disk or has another layout.
    """
    try:
        with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            begin = content.find(b"[", content.rfind(b'"categories"'))
            text = content[begin : begin + _LIST_BYTES].decode("utf-8", "ignore")
        return [str(category["name"]) for category in json.JSONDecoder().raw_decode(text)[0]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def no_object(dataset: BaseDataset, count: int) -> str:
    """Return one line on a detection set of ``count`` images without any object of its class list."""
    there = categories(dataset.ann_file) or _names_in_xml(dataset)
    unlinked = _unlinked(dataset.ann_file)
    if not there or unlinked:
        remedy = f"; {unlinked or 'the annotations hold no object'}"
    elif odd := [name for name in there if name != name.strip()]:
        remedy = (
            f"; names in the annotations have blanks at their ends ({join_first(list(map(repr, odd)))}): remove them"
        )
    elif known := [name for name in there if name in dataset.metainfo["classes"]]:
        remedy = f"; the annotations have {join_first(there)}: are the boxes of {known[0]!r} in pixels?"
    else:
        remedy = (
            f"; the annotations have {join_first(there)}: set metainfo=dict(classes=(...)) of every data set and "
            "num_classes of the model"
        )
    return f"no object of {count} images is of the class list ({join_first(list(dataset.metainfo['classes']))}){remedy}"


def _unlinked(file: str) -> str:
    """Return why no annotation of a COCO file belongs to its images and categories, empty where one does."""
    try:
        content = json.loads(read_text(file))
        tables = {key: [entry["id"] for entry in content[key]] for key in ("images", "categories")}
        annotations = content["annotations"]
        if not annotations:
            return "the annotations hold no object"
        for table, key in (("images", "image_id"), ("categories", "category_id")):
            used = [entry[key] for entry in annotations]
            if not set(used) & set(tables[table]):
                return (
                    f"none of its {len(used)} annotations has the id of one of its {table}: {key} is {used[0]!r} and "
                    f"so on, the {table} have {join_first(list(map(repr, tables[table])))}"
                )
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # another layout
    return ""


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
    for key in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for part in _data_sets((config.get(key) or {}).get("dataset")):
            file = os.path.join(part.get("data_root") or "", part["ann_file"])
            is_coco = file.endswith(".json") or "Coco" in str(part.get("type"))
            if is_coco and os.path.isfile(file) and (problem := _coco_problem(file)):
                raise ValueError(f"{key}: {file}: {problem}")
            is_list = str(part.get("type")).rpartition(".")[2] in ("CustomDataset", "ImageNet")
            if is_list and part["ann_file"] and os.path.isfile(file) and part.get("with_label", True):
                _check_list(key, file)
            if part.get("filter_cfg"):
                with DefaultScope.overwrite_default_scope(config.get("default_scope")):
                    dataset = DATASETS.build({**part, "filter_cfg": None, "test_mode": True})
                if not any(dataset.get_data_info(index).get("instances", True) for index in range(len(dataset))):
                    raise ValueError(f"{key}: {no_object(dataset, len(dataset))}")


def explain_steps(config: Mapping[str, Any]) -> None:
    """Look for the step of a config's pipelines that cannot be built.

    Raises:
        ValueError: Naming its key and its options.
    """
    for key in ("train_dataloader", "val_dataloader", "test_dataloader"):
        part, name = (config.get(key) or {}).get("dataset"), f"{key}.dataset"
        while isinstance(part, Mapping):
            for number, step in enumerate(part.get("pipeline") or ()):
                try:
                    with DefaultScope.overwrite_default_scope(config.get("default_scope")):
                        TRANSFORMS.build(step)
                except Exception as error:
                    options = ", ".join(f"{option}={value!r}" for option, value in step.items() if option != "type")
                    what = describe_failure(error)
                    raise ValueError(f"{name}.pipeline.{number}: {step['type']}({options}) fails: {what}") from error
            part, name = part.get("dataset"), f"{name}.dataset"


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


def _data_sets(part: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the configs of data sets with an annotation file in the config of a data set."""
    if isinstance(part, Mapping):
        if isinstance(part.get("ann_file"), str):
            yield part
        part = list(part.values())
    for item in part if isinstance(part, list | tuple) else ():
        yield from _data_sets(item)
