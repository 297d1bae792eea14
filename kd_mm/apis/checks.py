"""Hooks that stop a run before its first step where something that it needs later is missing or does not fit."""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import BaseDataset, ConcatDataset
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset as ClassificationDataset
from torch import nn

from kd_mm.datasets import VOCDataset
from kd_mm.distillers import Distiller
from kd_mm.utils.checkpoint import OWN_PREFIX
from kd_mm.utils.contexts import isolated_rng
from kd_mm.utils.suggest import describe_error

#: Images looked for in a data set, evenly spread: enough to miss a folder, few enough for the largest list.
_LOOKED_FOR = 1000


class StepHook(Hook):
    """Knows whether training has begun, and whether a step is under way.

    Attributes:
        begun: The first step has begun.
        under_way: A step has begun and not ended; an error now is not one of the config.
    """

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self.begun = self.under_way = False

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note the beginning of a step."""
        self.begun = self.under_way = True

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Note the end of a step."""
        self.under_way = False


class LeftOverWeightsHook(Hook):
    """Warns in one line of weights in a loaded file that the model does not have.

    What distillation stores beside the student is left out by a plain config by intent.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Have the loading that follows report what it left over, after whatever renaming the model does."""
        model = _model(runner)
        origin = runner.cfg.get("load_from") or "the checkpoint"

        def warn(module: nn.Module, result: Any) -> None:
            handle.remove()
            names = [key.removeprefix("student.") for key in result.unexpected_keys if not key.startswith(OWN_PREFIX)]
            if names:
                listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                network = type(model.student if isinstance(model, Distiller) else model).__name__
                runner.logger.warning(
                    f"{origin}: {len(names)} of its weights are left over, {network} has no such weights ({listed})"
                )

        handle = model.register_load_state_dict_post_hook(warn)


class ClassCountHook(Hook):
    """Compares the classes of the training data with those of a plain network's head.

    A classifier would stop in its loss, a detector would learn the class that it lacks as background. A Distiller
    compares its networks with the data by itself.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the data sets of the training loop.

        Raises:
            ValueError: There are labels beyond the head's classes.
        """
        for dataset in _base_datasets(runner.train_dataloader.dataset):
            classes, detects = dataset.metainfo.get("classes") or (), isinstance(dataset, VOCDataset)
            key, count = _class_count(runner.cfg.model, detects)
            if count is None or len(classes) <= count:
                continue
            # A class list may be longer than what is labelled, such as ImageNet's over a part of it.
            if detects or (
                isinstance(dataset, ClassificationDataset) and max(dataset.get_gt_labels(), default=-1) >= count
            ):
                raise ValueError(
                    f"the training data set has {len(classes)} classes, the network predicts {count}: set model.{key}"
                )


class DataCheckHook(Hook):
    """Looks for the images of training and validation, which many data sets of upstream list unchecked.

    The engine reads the lists themselves before the first step, except for those of the test. Training does not need
    the test data, so one line of the log warns of what is wrong with them.

    Args:
        tested: The run ends with a test: wrong test data stop it.
    """

    priority = "VERY_HIGH"  # before anything is prepared on a teacher

    def __init__(self, tested: bool = False) -> None:
        self.tested = tested

    def before_train(self, runner: Runner) -> None:
        """Check the data sets of the loops, and build that of the test.

        Raises:
            FileNotFoundError: There are images missing.
        """
        require_images("train_dataloader", runner.train_loop.dataloader.dataset)
        if runner.val_loop is not None:
            require_images("val_dataloader", runner.val_loop.dataloader.dataset)
        validation, test = (runner.cfg.get(f"{part}_dataloader") or {} for part in ("val", "test"))
        if not test or test.get("dataset") == validation.get("dataset") or not is_main_process():
            return
        try:
            with isolated_rng("test data"):
                require_images("test_dataloader", DATASETS.build(copy.deepcopy(test["dataset"])))
        except Exception as error:
            if self.tested:
                raise
            what = describe_error(error).splitlines()[0]
            where = "" if what.startswith("test_dataloader") else "test_dataloader: "
            runner.logger.warning(f"{where}{what} (training does not need it, a test will)")


class MetricNamesHook(Hook):
    """Evaluates the first and the last validation image before training, for the names of the metrics.

    Where two images are too few to evaluate, as for a query without a match, nothing is checked.

    Args:
        metrics: Names that the validation has to give.
    """

    priority = "VERY_HIGH"  # before anything is prepared on a teacher

    def __init__(self, metrics: Sequence[str]) -> None:
        self.metrics = metrics

    def before_train(self, runner: Runner) -> None:
        """Look for each name.

        Raises:
            ValueError: The validation gives no such metric.
        """
        if not self.metrics or runner.val_loop is None:
            return
        with isolated_rng("metric names"):
            found = _evaluate_two(runner)
        for name in self.metrics if found else ():
            require_metric(name, found, "the validation")


def require_metric(name: str, found: Mapping[str, float], where: str) -> float:
    """Return a metric.

    Raises:
        ValueError: There is none of this name; the message has the closest.
    """
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        raise ValueError(
            f"{where} gives no metric {name!r}{f', did you mean {near[0]!r}?' if near else ''} "
            f"(there are: {', '.join(sorted(found))})"
        )
    return found[name]


def require_images(key: str, dataset: Any) -> None:
    """Stop where image files of a data set do not exist; wrapped and joined data sets are looked into.

    Raises:
        FileNotFoundError: Naming the first one, and how many of those looked for are missing.
    """
    for part in _base_datasets(dataset):
        if not any(map(_reads_files, part.pipeline.transforms)):
            continue
        step = -(-len(part) // _LOOKED_FOR) or 1
        paths = [part.get_data_info(index).get("img_path") for index in range(0, len(part), step)]
        missing = [path for path in paths if isinstance(path, str) and "://" not in path and not os.path.isfile(path)]
        if missing:
            raise FileNotFoundError(
                f"{key}: {missing[0]} does not exist (missing are {len(missing)} of {len(paths)} images looked for): "
                "put the data there, or set data_root"
            )


def _model(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _class_count(model: Mapping[str, Any], detects: bool) -> tuple[str, int | None]:
    """Return the key of a plain config's number of classes below ``model``, and the number where it is given."""
    names = ["bbox_head"] if detects else ["head"]
    if detects and "roi_head" in model:
        names = ["roi_head", "bbox_head"]
    part: Any = model
    for name in names:
        part = part.get(name) or {} if isinstance(part, Mapping) else {}
    part = part[0] if isinstance(part, Sequence) else part
    return ".".join([*names, "num_classes"]), part.get("num_classes")


def _evaluate_two(runner: Runner) -> dict[str, float]:
    try:
        loader, evaluator = runner.val_loop.dataloader, copy.deepcopy(runner.val_loop.evaluator)
        batch = loader.collate_fn([loader.dataset[0], loader.dataset[len(loader.dataset) - 1]])
        runner.model.eval()
        with torch.no_grad():
            evaluator.process(data_samples=runner.model.val_step(batch), data_batch=batch)
        return dict(evaluator.evaluate(2))
    except Exception:  # whatever an evaluator makes of two images
        return {}


def _base_datasets(dataset: Any) -> Iterator[BaseDataset]:
    """Yield the data sets of the engine in a data set, wrapped and joined ones included."""
    if isinstance(dataset, BaseDataset):
        yield dataset
    elif isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from _base_datasets(part)
    elif hasattr(dataset, "dataset"):
        yield from _base_datasets(dataset.dataset)


def _reads_files(step: Any) -> bool:
    """Return whether a step of a pipeline opens the path itself, from no store that may give it another meaning."""
    return isinstance(step, LoadImageFromFile) and not (step.backend_args or step.file_client_args)
