"""Labels of data sets, compared with their class list, the folders of the images and the labels of the training."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
from mmdet.datasets import BaseDetDataset
from mmengine.dataset import BaseDataset
from mmpretrain.datasets import BaseDataset as ClassificationDataset
from mmpretrain.datasets import CustomDataset

from kd_mm.checks.annotation_files import has_area, names_in_xml, no_object
from kd_mm.utils.samples import base_datasets
from kd_mm.utils.suggest import join_first, warn

#: Samples looked at for their labels.
_LABELS = 200_000
#: Samples looked at for classes without any object; a larger set is not searched to its end.
_LOOKED_AT = 20_000
#: Samples whose labels may be marks of 0 and 1.
_ROWS = 100


def labels(info: Mapping[str, Any]) -> list[int]:
    """Return the labels of one sample: its class or classes, or those of its objects that are learnt."""
    objects = [item for item in info.get("instances") or () if not item.get("ignore_flag") and has_area(item, info)]
    found = info.get("gt_label", [item.get("bbox_label") for item in objects])
    found = [found] if isinstance(found, int) else np.atleast_1d(found)
    return [int(label) for label in found if label is not None]


@lru_cache(maxsize=2)  # read by several checks: training and validation
def label_sets(dataset: BaseDataset) -> dict[str, set[int]]:
    """Return the labels of the images in each folder, by the name of the folder; empty names where there are none."""
    folders: dict[str, set[int]] = {}
    for index in islice(_spread(len(dataset)), _LABELS):
        info = dataset.get_data_info(index)
        folder = os.path.basename(os.path.dirname(str(info.get("img_path", ""))))
        folders.setdefault(folder, set()).update(labels(info))
    return folders


def check_folders(key: str, classes: Sequence[str], folders: Mapping[str, set[int]]) -> None:
    """Stop where a folder is called as a class, and a list gives all of its images the label of another.

    Raises:
        ValueError: Naming the folder and both classes.
    """
    for folder, found in folders.items():
        label = next(iter(found)) if len(found) == 1 else -1
        if folder in classes and 0 <= label < len(classes) and classes[label] != folder:
            raise ValueError(
                f"{key}: the images in {folder!r} have the label {label}, which the class list calls "
                f"{classes[label]!r}: number the labels in the order of the class list ({join_first(classes)})"
            )


def check_trained(key: str, dataset: Any, training: Any) -> None:
    """Warn of labels of an evaluation that no training image has, and of a folder whose label is another there.

    Class lists tell this where both sets have one, and class folders where both have them.

    Raises:
        ValueError: Several folders have another label than in the training data.
    """
    if not (_listed(dataset) or _listed(training)):
        return
    evaluated, trained = ([label_sets(part) for part in _numbered(each)] for each in (dataset, training))
    if not evaluated or not trained:
        return
    here, there = ({name: found for part in sets for name, found in part.items()} for sets in (evaluated, trained))
    moved = [name for name in here if len(here[name]) == 1 == len(there.get(name, ())) and here[name] != there[name]]
    if moved:
        first = f"{moved[0]!r} has {min(here[moved[0]])} here and {min(there[moved[0]])} there"
        line = f"{key}: {len(moved)} folders have another label than in the training data ({first}): number them alike"
        if len(moved) > 1:
            raise ValueError(line)
        warn(line)
    beyond = sorted(set().union(*here.values()) - set().union(*there.values()))
    if beyond and not any(part.metainfo.get("classes") for part in _listed(dataset)):
        numbers = join_first([*map(str, beyond)])
        warn(f"{key}: no training image has the labels {numbers}: do both lists count the classes alike?")


def _listed(dataset: Any) -> list[BaseDataset]:
    """Return the parts of a data set of a classifier whose labels are from a list."""
    return [part for part in _numbered(dataset) if part.ann_file]


def _numbered(dataset: Any) -> list[BaseDataset]:
    """Return the parts of a data set of a classifier whose labels are from a list or from class folders."""
    return [
        part
        for part in base_datasets(dataset)
        if isinstance(part, CustomDataset) and len(part) and "gt_label" in part.get_data_info(0)
    ]


def check_presence(key: str, dataset: BaseDataset) -> None:
    """Stop where nothing is of the class list; warn of classes without anything."""
    classes = list(dataset.metainfo.get("classes") or ())
    if not classes:  # a list without names
        found = set().union(*(labels for part in _listed(dataset) for labels in label_sets(part).values()))
        classes = [str(label) for label in range(max(found, default=-1) + 1)]
    if not classes or not len(dataset) or not isinstance(dataset, BaseDetDataset | ClassificationDataset):
        return
    given = [dataset.get_data_info(index).get("gt_label") for index in islice(_spread(len(dataset)), _ROWS)]
    rows = [tuple(each) for each in given if isinstance(each, list | tuple | np.ndarray)]
    marks = all(len(row) == len(classes) and {*row} <= {0, 1} for row in rows)
    if marks and any(len({*row}) < len(row) for row in rows):
        raise ValueError(
            f"{key}: the labels of an image are {list(rows[0])}, a mark for each class: give the numbers of its classes"
        )
    missing = set(range(len(classes)))
    for looked, index in enumerate(_spread(len(dataset)), 1):
        missing -= set(labels(dataset.get_data_info(index)))
        if not missing or (looked >= _LOOKED_AT and len(missing) < len(classes)):
            break
    if isinstance(dataset, BaseDetDataset) and len(missing) == len(classes):
        raise ValueError(f"{key}: {no_object(dataset, len(dataset))}")
    if key == "train_dataloader" and isinstance(dataset, BaseDetDataset):
        _check_background(key, dataset)
    if foreign := [name for name in names_in_xml(dataset) if name not in classes]:
        warn(f"{key}: objects of classes that are not in the class list are left out: {join_first(foreign)}")
    if missing and looked == len(dataset):
        names = join_first([classes[label] for label in sorted(missing)])
        warn(f"{key}: {len(missing)} of {len(classes)} classes have no object: {names}")


def _check_background(key: str, dataset: BaseDetDataset) -> None:
    """Warn where most images have no object."""
    chosen = [*islice(_spread(len(dataset)), _LOOKED_AT // 4)]
    empty = sum(not dataset.get_data_info(index).get("instances", True) for index in chosen)
    if empty > len(chosen) / 2:
        warn(f"{key}: {empty} of {len(chosen)} images looked at have no object: they are learned as background alone")


def _spread(count: int) -> Iterator[int]:
    """Yield each index once, the first few thousand evenly spread: many sets are sorted by class."""
    step = max(1, count // 5000)
    for start in range(step):
        yield from range(start, count, step)
