"""Class lists of data sets, networks and checkpoints, compared by name and order before a run begins."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from unicodedata import normalize

from mmdet.datasets import BaseDetDataset, CocoDataset
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset as ClassificationDataset
from mmpretrain.datasets import CustomDataset

from kd_mm.checks.annotation_files import no_object
from kd_mm.checks.coco_files import categories, check_entries
from kd_mm.checks.labels import check_folders, check_presence, check_trained, label_sets
from kd_mm.datasets.voc_annotation import plain_name
from kd_mm.tasks import is_multilabel
from kd_mm.utils.checkpoint import trained_classes
from kd_mm.utils.config import data_sets, is_distillation, parts_of
from kd_mm.utils.contexts import unwrapped
from kd_mm.utils.samples import base_datasets
from kd_mm.utils.suggest import join_first, warn

#: Names of folders that hold class folders, where one folder above was named.
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
#: The remedy of class lists that differ.
_SAME_LIST = (
    "give both the same list in the same order: metainfo=dict(classes=(...)), or for class folders the same folders "
    "(an empty one for a class without images)"
)


class ClassListHook(Hook):
    """Compares the class lists of training, validation and test data, and those with the outputs of a plain network.

    A wrong number would be called a wrong prediction: no later step notices. A Distiller compares its networks with the
    training data by itself.

    Args:
        trained: Classes that the checkpoint of a test was trained on; empty where they are not known.
    """

    priority = "VERY_HIGH"  # before anything is prepared on a teacher

    def __init__(self, trained: Sequence[str] = ()) -> None:
        self.trained = list(trained)
        self._loaded: list[str] = []

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Note the classes of the checkpoint that the run starts from."""
        self._loaded = _normalized(trained_classes(checkpoint))

    def before_train(self, runner: Runner) -> None:
        """Check the data sets of the loops.

        Raises:
            ValueError: Two class lists differ, also from that of the run that is resumed, there are labels beyond the
                network's classes, or no object is of any.
        """
        training = runner.train_loop.dataloader.dataset
        _check_set(runner, "train_dataloader", training)
        classes = class_list(training)
        if runner.cfg.get("resume"):
            compare_classes("train_dataloader", classes, self._loaded, "the run that is resumed")
        elif len(classes) == len(self._loaded) and classes != self._loaded:
            runner.logger.warning(
                f"load_from: the data have other classes than the checkpoint: {_difference(classes, self._loaded)}; "
                "the head starts with the weights of the checkpoint's classes"
            )
        if runner.val_loop is not None:
            validation = runner.val_loop.dataloader.dataset
            listed, detects = class_list(validation), _has_boxes(validation)
            compare_classes("val_dataloader", listed, classes, "the training data", detects)
            _check_set(runner, "val_dataloader", validation)
            check_trained("val_dataloader", validation, training)

    def before_test(self, runner: Runner) -> None:
        """Compare the test data with the checkpoint.

        Raises:
            ValueError: The class lists differ, or a list numbers the images of a class otherwise.
        """
        dataset = runner.test_loop.dataloader.dataset
        where = "the checkpoint's training data"
        compare_classes("test_dataloader", class_list(dataset), self.trained, where, _has_boxes(dataset))
        for part in base_datasets(dataset):
            check_numbering("test_dataloader", part)
            if isinstance(part, ClassificationDataset):
                check_folders("test_dataloader", class_list(part) or self.trained, label_sets(part))
            _check_outputs(runner, "test_dataloader", part)
            _check_known("test_dataloader", part)


def _has_boxes(dataset: Any) -> bool:
    return any(isinstance(part, BaseDetDataset) for part in base_datasets(dataset))


def _check_set(runner: Runner, key: str, dataset: Any) -> None:
    """Check each part of the data of a loop by itself, with the first one, and with the network's outputs."""
    for part in base_datasets(dataset):
        compare_classes(key, class_list(part), class_list(dataset), "the first of the joined data sets")
        check_numbering(key, part)
        _check_outputs(runner, key, part)
        if key == "train_dataloader" or isinstance(part, BaseDetDataset):
            check_presence(key, part)


def class_list(dataset: Any) -> list[str]:
    """Return the classes of a data set, of the first one where several are joined; empty where it names none."""
    return _normalized(next((part.metainfo.get("classes") or () for part in base_datasets(dataset)), ()))


def _normalized(names: Sequence[Any]) -> list[str]:
    return [normalize("NFC", str(name)) for name in names]  # file systems differ in letters with accents


def compare_classes(
    key: str, classes: Sequence[str], others: Sequence[str], where: str, detector: bool = False
) -> None:
    """Stop where the same label means two classes; warn where one list ends earlier or, of boxes, has other words.

    Args:
        key: The data set in the config, e.g. ``"val_dataloader"``.
        classes: Its classes; nothing is compared where either list is empty.
        others: Classes of other data.
        where: What these are called.
        detector: Predictions of any class are scored, so that its list may not end earlier. Default: False.

    Raises:
        ValueError: Naming what differs, and what to do.
    """
    if not classes or not others or list(classes) == list(others):
        return
    line = f"{key}: its {len(classes)} classes are not the {len(others)} of {where}: {_difference(classes, others)}"
    pairs = [pair for pair in zip(classes, others, strict=False) if pair[0] != pair[1]]
    moved = any(here in others or there in classes for here, there in pairs)
    other = [pair for pair in pairs if plain_name(pair[0]).casefold() != plain_name(pair[1]).casefold()]
    renamed = other and not (detector and set(classes) & set(others))  # annotations of two sources may differ in words
    if moved or renamed or (detector and len(classes) < len(others)):
        raise ValueError(f"{line}; {_SAME_LIST}")
    warn(f"{line}; {_SAME_LIST}")


def explain_joined_sets(config: Mapping[str, Any]) -> None:
    """Name the classes in which data sets differ that a config joins, of which the engine says "meta information".

    Raises:
        ValueError: Two of them differ.
    """
    for key, dataset in data_sets(config):
        parts = (dataset or {}).get("datasets") or []
        with DefaultScope.overwrite_default_scope(config.get("default_scope")):
            lists = [class_list(DATASETS.build(part)) for part in parts]
        for number, classes in enumerate(lists):
            if classes != lists[0]:
                name, difference = f"{key}.dataset.datasets.{number}", _difference(classes, lists[0])
                raise ValueError(f"{name}: its classes are not the first one's: {difference}; {_SAME_LIST}")


def _difference(classes: Sequence[str], others: Sequence[str]) -> str:
    """Return in which names two lists differ, and the first number that stands for two classes."""
    lacking, added = ([name for name in a if name not in set(b)] for a, b in ((others, classes), (classes, others)))
    parts = []
    if lacking:
        parts.append(f"it lacks {join_first(list(map(repr, lacking)))}")
    if added:
        parts.append(f"it has {join_first(list(map(repr, added)))} besides")
    if not lacking and not added:
        parts.append("the order is another")
    for number, (here, there) in enumerate(zip(classes, others, strict=False)):
        if here != there:
            parts.append(f"class {number} is {here!r} here and {there!r} there")
            break
    return ", ".join(parts)


def check_numbering(key: str, dataset: BaseDataset) -> None:
    """Stop where upstream numbers labels by the folders or the annotation file, and the class list says otherwise.

    Raises:
        ValueError: The class list has another order, names a class twice, or names classes before others that the data
            lack.
    """
    classes = list(dataset.metainfo.get("classes") or ())
    own = classes != list(type(dataset).METAINFO.get("classes") or ())  # two of ImageNet's share a name
    if twice := _twice(classes) if own or isinstance(dataset, BaseDetDataset) else []:
        raise ValueError(f"{key}: the class list names {join_first(twice)} twice ({join_first(classes)})")
    if isinstance(dataset, CustomDataset) and not dataset.ann_file and dataset.with_label:
        numbered, by = list(dataset.folder_to_idx), "class folders"
        alike = Counter(plain_name(name).casefold() for name in numbered)
        if double := [ascii(name) for name in numbered if alike[plain_name(name).casefold()] > 1]:
            warn(f"{key}: class folders differ in capitals or blanks alone, each is a class: {join_first(double)}")
    elif isinstance(dataset, CocoDataset) and type(dataset).load_data_list is CocoDataset.load_data_list:
        check_entries(key, dataset.ann_file, classes)
        listed = categories(dataset.ann_file)
        others = {plain_name(name).casefold(): name for name in listed if name not in classes}
        for name in [name for name in classes if name not in listed and plain_name(name).casefold() in others]:
            other = others[plain_name(name).casefold()]
            pair = [(ascii if plain_name(name) == plain_name(other) else repr)(each) for each in (name, other)]
            where = f"the class list names {pair[0]}, {dataset.ann_file} {pair[1]}"
            raise ValueError(f"{key}: {where}: write it alike in both")
        numbered, by = [name for name in listed if name in classes], "categories"
        if twice := _twice(numbered):
            raise ValueError(f"{key}: {dataset.ann_file} has two categories of the name {twice[0]!r}: make them one")
    else:
        return
    wrong = [name for label, name in enumerate(numbered) if name in classes and classes.index(name) != label]
    if wrong:
        raise ValueError(
            f"{key}: {type(dataset).__name__} numbers its {by} in their own order ({join_first(numbered)}), the class "
            f"list is {join_first(classes)}, so {wrong[0]!r} is labelled {classes[numbered.index(wrong[0])]!r}: give "
            "metainfo=dict(classes=(...)) that order, without names that the data lack"
            + (", or sort the categories of the file" if by == "categories" else "")
        )


def _twice(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _check_known(key: str, dataset: BaseDataset) -> None:
    """Stop where an evaluation's annotations have categories, and none of them is in the class list."""
    there = categories(dataset.ann_file) if isinstance(dataset, CocoDataset) else []
    if there and not set(there) & set(dataset.metainfo.get("classes") or there):
        raise ValueError(f"{key}: {no_object(dataset, len(dataset))}")


def _check_outputs(runner: Runner, key: str, dataset: BaseDataset) -> None:
    """Compare the class list and, of a classifier's data, up to 200,000 labels with the outputs of the head.

    A classifier would stop in its loss, a detector would learn the class that it lacks as background. Class folders
    number themselves, and a Distiller compares its class count with the list.
    """
    plain, detects = not is_distillation(runner.cfg), isinstance(dataset, BaseDetDataset)
    labelled = detects or (isinstance(dataset, ClassificationDataset) and key != "test_dataloader")
    option, count = _class_count(runner.cfg.model if plain else runner.cfg.model.student, detects)
    if not labelled or not len(dataset) or count is None or (detects and not plain):
        return
    option, classes = f"model.{option}" if plain else f"model.student.{option}", class_list(dataset)
    listed = not isinstance(dataset, CustomDataset) or dataset.ann_file or len(classes) > count
    found: set[int] = set()
    if not detects and listed and "gt_label" in dataset.get_data_info(0):
        folders = label_sets(dataset)
        check_folders(key, classes, folders)
        found = set().union(*folders.values())
    sizes = f"{key}: the data set has {len(classes)} classes ({join_first(classes)}), the network predicts {count}"
    # A class list may be longer than what is labelled, such as ImageNet's over a part of it.
    if len(classes) > count and plain and (detects or max(found, default=0) >= count):
        own = "" if key == "train_dataloader" else ", or leave out what the training data lack"
        raise ValueError(f"{sizes}: set {option}{own}")
    unnamed = 0 < len(classes) <= max(found, default=0) < count
    if len(classes) <= count and found and (unnamed or min(found) < 0 or max(found) >= count):
        known = f"the class list has {len(classes)} names" if unnamed else f"the network predicts {count} classes"
        last, remedy = (len(classes) - 1, "name all classes") if unnamed else (count - 1, f"set {option}")
        raise ValueError(
            f"{key}: the data set has labels from {min(found)} to {max(found)}, {known}, from 0 to {last}: number the "
            f"labels from 0, or {remedy}"
        )
    if detects and key != "train_dataloader" and 0 < len(classes) < count:
        warn(f"{sizes}: a prediction of another class cannot be scored: set {option}={len(classes)}")
    if not listed and len(classes) > 1 and {*map(str.lower, classes)} <= _SPLITS:
        raise ValueError(
            f"{key}: the folders of the classes are {join_first(classes)}, which are splits: name one of them in "
            "data_root or data_prefix"
        )
    if not plain or key != "train_dataloader":
        return
    if not detects and len(classes) == 1 and (count > 1 or not is_multilabel(unwrapped(runner))):  # a softmax of one
        raise ValueError(
            f"{key}: the data set has one class ({classes[0]}), the network predicts {count}: data_root and "
            "data_prefix name the folder that holds the folders of the classes"
        )
    if not detects and listed and len(found) == 1 < count:
        warn(f"{key}: all images have the label {min(found)}, the network predicts {count} classes")
    if 0 < len(classes) < count:
        warn(f"{sizes}: set {option}={len(classes)} unless the others are meant to stay untrained")


def _class_count(model: Mapping[str, Any], detects: bool) -> tuple[str, int | None]:
    """Return the key of a plain config's number of classes below ``model``, and the number where it is given."""
    name = ("roi_head.bbox_head" if "roi_head" in model else "bbox_head") if detects else "head"
    key = rf"{re.escape(name)}(\.\d+)?\.num_classes".replace("bbox", "(bbox|mask)")
    found = {option: value for option, value in parts_of(model) if re.fullmatch(key, option)}
    if len(set(found.values())) > 1:  # scores of stages cannot be averaged, and a mask is that of a box's class
        counts = ", ".join(f"model.{option}={value}" for option, value in found.items())
        raise ValueError(f"the heads predict other numbers of classes ({counts}): set one for all")
    return next(iter(found.items()), (f"{name}.num_classes", None))
