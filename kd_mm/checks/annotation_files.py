"""What is in annotation files of upstream's data sets, and why upstream cannot read one."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from mmdet.datasets import CocoDataset, XMLDataset
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, EVALUATOR, METRICS, TRANSFORMS, DefaultScope, Registry

from kd_mm.checks.coco_files import categories, find_problem, left_out, read_content, unlinked
from kd_mm.datasets import VOCDataset
from kd_mm.datasets.text_files import read_lines
from kd_mm.datasets.voc_annotation import parse_annotation
from kd_mm.utils.config import as_list, data_sets
from kd_mm.utils.samples import describe_failure
from kd_mm.utils.suggest import join_first

#: A line of mmpretrain's lists: an image, and the number of its class.
_LABELLED = re.compile(r"(?!.*[\s,;]\d+[\s,;]+\d+$).+[\s,;](-?\d+)")


def no_object(dataset: BaseDataset, count: int) -> str:
    """Return one line on a detection set of ``count`` images without any object of its class list to learn from."""
    classes = list(dataset.metainfo["classes"])
    ignored = sum(len(dataset.get_data_info(index).get("instances") or ()) for index in range(len(dataset)))
    if ignored:
        return (
            f"all {ignored} objects of its {count} images are marked as difficult, as a crowd (iscrowd) or as too "
            "small, or have no area inside of their image: training and evaluation leave such objects out"
        )
    there, content = categories(dataset.ann_file) or names_in_xml(dataset), read_content(dataset.ann_file)
    problem = dataset.ann_file.endswith(".json") and find_problem(dataset.ann_file)
    unusable = f"{dataset.ann_file}: {problem}" if problem else unlinked(content)
    if not there or unusable:
        remedy = unusable or "the annotations hold no object"
    elif odd := [name for name in there if name != name.strip()]:
        remedy = f"names in the annotations have blanks at their ends ({join_first(list(map(repr, odd)))}): remove them"
    elif known := [name for name in there if name in classes]:
        why = left_out(content, classes) or f"are the boxes of {known[0]!r} in pixels?"
        return f"no object of the class list ({join_first(classes)}) can be learned in {count} images: {why}"
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


def names_in_xml(dataset: BaseDataset) -> list[str]:
    """Return the classes in the first hundred annotation files of mmdet's reader of Pascal VOC, which tells none."""
    names: dict[str, None] = {}
    own = isinstance(dataset, VOCDataset) or not isinstance(dataset, XMLDataset)
    for index in range(0 if own else min(len(dataset), 100)):
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
    with DefaultScope.overwrite_default_scope(config.get("default_scope")):
        for key, part, kind in _with_files(config):
            file = os.path.join(part.get("data_root") or "", part.get("ann_file") or f"meta/{part.get('split')}.txt")
            if inspect.isclass(kind) and not issubclass(kind, BaseDataset):
                continue  # it has options and files of its own
            is_coco = "Coco" in str(part["type"]) or (inspect.isclass(kind) and issubclass(kind, CocoDataset))
            if is_coco and os.path.isfile(file) and (problem := find_problem(file)):
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


def explain_voc_annotations(config: Mapping[str, Any]) -> None:
    """Look for annotations of Pascal VOC that mmdet's data sets cannot read.

    Raises:
        ValueError: Naming the data set, and the one that reads more.
    """
    with DefaultScope.overwrite_default_scope(config.get("default_scope")):
        for key, part, kind in _with_files(config):
            if not inspect.isclass(kind) or not issubclass(kind, XMLDataset) or issubclass(kind, VOCDataset):
                continue
            try:
                DATASETS.build(part)
            except Exception as error:
                raise ValueError(
                    f"{key}: {part['type']} fails on its annotations ({describe_failure(error)}): take "
                    "kd_mm.VOCDataset, which reads more of them and names the file"
                ) from error


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


def _check_list(key: str, file: str) -> None:
    """Stop at a line of a list of images that names no class.

    Raises:
        ValueError: Naming the line.
    """
    lines = read_lines(file)
    wrong = [(number, line) for number, line in enumerate(lines, 1) if not _LABELLED.fullmatch(line)]
    if wrong or not lines:
        first = f"line {wrong[0][0]} is {shorten(wrong[0][1], 60)!r}" if wrong else "it is empty"
        raise ValueError(
            f"{key}: {file}: {first}, of {len(lines)} lines {len(wrong)} are no image and the number of its class: "
            "write 'folder/image.png 2', classes from 0 (several for an image: mmpretrain.MultiLabelDataset)"
        )


def _with_files(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """Yield the data sets of a config that read files: where it has them, their configs and classes."""
    for key, given in data_sets(config):
        for part in _reading_files(given):
            yield key, part, DATASETS.get(part["type"]) if isinstance(part["type"], str) else part["type"]


def _reading_files(part: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the configs of data sets that read files in the config of a data set."""
    if isinstance(part, Mapping):
        if "type" in part and ("ann_file" in part or "data_root" in part):
            yield part
        part = list(part.values())
    for item in part if isinstance(part, list | tuple) else ():
        yield from _reading_files(item)
