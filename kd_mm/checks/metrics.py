"""Metrics before training: they can be computed on the data at hand, and those that a config names exist."""

import copy
import difflib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.evaluator import DumpResults
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from kd_mm.checks.coco_files import read_table
from kd_mm.evaluation import DetectionMetric, ReIDMetric
from kd_mm.evaluation.detection_metric import check_listed_once
from kd_mm.tasks.targets import box_tensor
from kd_mm.utils.config import as_list, parts_of
from kd_mm.utils.contexts import isolated_rng
from kd_mm.utils.samples import base_datasets, describe_failure, files
from kd_mm.utils.suggest import join_first


class MetricCheckHook(Hook):
    """Compares the evaluators with their data, and evaluates two validation images for the names of the metrics.

    The images are the first and the last one, of retrieval a query and a match of it. Where the measures of two images
    cannot be computed, names are not checked.

    Args:
        names: Metrics that the validation has to give, and where each is asked for, as a dotted key or an option.
    """

    priority = "VERY_HIGH"  # before anything is prepared on a teacher

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def before_train(self, runner: Runner) -> None:
        """Check the validation.

        Raises:
            ValueError: It gives no such metric, or an evaluator can never be computed on its data or does not take what
                the network predicts for two images.
        """
        loop, cycle = runner.val_loop, runner.train_loop.val_interval
        total = runner.max_epochs if isinstance(runner.train_loop, EpochBasedTrainLoop) else runner.max_iters
        if self.names and (loop is None or cycle > total):
            why = "has no validation" if loop is None else f"ends at {total}, before train_cfg.val_interval={cycle}"
            runner.logger.warning(f"{next(iter(self.names.values()))}: there will be no metric, the training {why}")
        if loop is None:
            return
        _compare_files(runner, "val", loop.dataloader.dataset)
        chosen = _check_data("val_evaluator", loop.evaluator.metrics, loop.dataloader.dataset)
        with isolated_rng("metric names"):
            found = _evaluate(runner, "val", chosen)
        if found is None:
            return
        names = {name: key for name, key in self.names.items() if name != "auto"}
        for name, key in names.items() if not found else ():
            kinds = ", ".join(type(metric).__name__ for metric in loop.evaluator.metrics)
            raise ValueError(
                f"{key}: the validation gives no metric {name!r}, and no other: see the log for what {kinds} lacks"
            )
        for name, key in names.items():
            value = require_metric(name, found, f"{key}: the validation")
            if np.ndim(value):
                raise ValueError(f"{key}: {name!r} is a list of {np.size(value)} numbers: take a metric of one number")
        first = next(iter(found), "acc")
        for hook in runner.hooks:
            if not isinstance(hook, CheckpointHook) or vars(hook).get("rules") != [None]:
                continue
            try:
                CheckpointHook(save_best=first, greater_keys=hook.greater_keys, less_keys=hook.less_keys)
            except ValueError as error:  # which the engine would raise after the first validation
                raise ValueError(
                    f"{self.names['auto']}='auto' takes {first!r}, and whether more of it is better is not known: set "
                    f"save_best={first!r} and rule='greater' or rule='less' beside it"
                ) from error

    def before_test(self, runner: Runner) -> None:
        """Check the data of the test, and evaluate two of its images.

        Raises:
            ValueError: An evaluator can never be computed on them, or does not take what the network predicts.
        """
        loop = runner.test_loop
        _compare_files(runner, "test", loop.dataloader.dataset)
        chosen = _check_data("test_evaluator", loop.evaluator.metrics, loop.dataloader.dataset)
        with isolated_rng("metric names"):
            _evaluate(runner, "test", chosen)


def require_metric(name: str, found: Mapping[str, float], where: str) -> float:
    """Return a metric.

    Raises:
        ValueError: There is none of this name; the message has the closest.
    """
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        near = near or [other for other in sorted(found) if other.rpartition("/")[2] == name][:1]
        raise ValueError(
            f"{where} gives no metric {name!r}{f', did you mean {near[0]!r}?' if near else ''} "
            f"(there are: {', '.join(sorted(found))})"
        )
    return found[name]


def named_metrics(config: Config) -> dict[str, str]:
    """Return the validation's metrics that a config names, and the key of each: for the best checkpoint, for stopping
    early, and for lowering the learning rate."""
    hooks = {f"default_hooks.{name}": hook for name, hook in (config.get("default_hooks") or {}).items()}
    hooks |= {f"custom_hooks.{number}": hook for number, hook in enumerate(as_list(config.get("custom_hooks")))}
    for number, schedule in enumerate(as_list(config.get("param_scheduler"))):
        if str(schedule.get("type")).startswith("ReduceOnPlateau"):
            hooks[f"param_scheduler.{number}"] = schedule
    names: dict[str, str] = {}
    for key, part in hooks.items():
        if not isinstance(part, Mapping):
            continue
        for option in ("save_best", "monitor"):
            given = [name for name in as_list(part.get(option)) if isinstance(name, str)]
            names.update(dict.fromkeys(given, f"{key}.{option}"))
    return names


def _compare_files(runner: Runner, split: str, dataset: Any) -> None:
    """Warn of an evaluator that reads other annotations than its data set."""
    read = {os.path.realpath(part.ann_file): part.ann_file for part in base_datasets(dataset) if part.ann_file}
    for key, value in parts_of({f"{split}_evaluator": runner.cfg.get(f"{split}_evaluator")}):
        if not key.endswith("ann_file") or not isinstance(value, str):
            continue
        if read and os.path.realpath(value) not in read:
            runner.logger.warning(f"{key} is {value}, but {split}_dataloader reads {join_first([*read.values()])}")
        if any(entry.get("id") == 0 for entry in read_table(value, "annotations")):
            line = "pycocotools counts the object whose annotation has the id 0 as never found: number them from 1"
            runner.logger.warning(f"{key}: {value}: {line}")


def _check_data(key: str, metrics: Sequence[Any], dataset: Any) -> list[int]:
    """Return the positions of images that the metrics can be computed on."""
    chosen = [0, len(dataset) - 1]
    for number, metric in enumerate(metrics):
        if type(metric).__name__ == "FasterCocoMetric" and not find_spec("faster_coco_eval"):
            raise ValueError(f"{key}: install the package faster_coco_eval, or take mmdet.CocoMetric: the same numbers")
        if isinstance(metric, ReIDMetric):
            where = key if len(metrics) == 1 else f"{key}.{number}"
            try:
                chosen = metric.check_data([dataset.get_data_info(i) for i in range(len(dataset))]) or chosen
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
        parts = list(base_datasets(dataset))
        if isinstance(metric, DetectionMetric) and parts:
            try:
                check_listed_once(
                    [part.get_data_info(i).get("img_path", "") for part in parts for i in range(len(part))]
                )
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
        if type(metric).__name__ != "CocoMetric":
            continue
        ids = Counter(part.get_data_info(i).get("img_id", (id(part), i)) for part in parts for i in range(len(part)))
        if twice := [repr(number) for number, count in ids.items() if count > 1]:
            line = f"CocoMetric tells images apart by their ids, and {len(twice)} are those of two images"
            raise ValueError(
                f"{key}: {line} ({join_first(twice)}): take kd_mm.DetectionMetric, or evaluate joined sets one by one"
            )
        _need(key, dataset, "iscrowd", "set it to 0")
        for file in {part.ann_file for part in parts}:
            if any(isinstance(entry.get("id"), str) for entry in read_table(file, "annotations")):
                raise ValueError(f"{key}: {file}: annotations have ids that are text: number them from 1")
    return chosen


def _need(key: str, dataset: Any, name: str, remedy: str) -> None:
    """Stop where annotations of a COCO file lack what CocoMetric reads of each."""
    for file in {part.ann_file for part in base_datasets(dataset)}:
        if lacking := sum(entry.get(name) in (None, []) for entry in read_table(file, "annotations")):
            line = f"{key}: {file}: {lacking} annotations have no {name!r}, which CocoMetric reads"
            raise ValueError(f"{line}: {remedy}")


def _evaluate(runner: Runner, split: str, chosen: Sequence[int]) -> dict[str, float] | None:
    """Return the metrics of a few images; None where they cannot be computed, and outside of the main process."""
    loop, key = runner.val_loop if split == "val" else runner.test_loop, f"{split}_evaluator"
    dataset, metrics = loop.dataloader.dataset, loop.evaluator.metrics
    try:
        batch = loop.dataloader.collate_fn([dataset[i] for i in chosen])
        runner.model.eval()
        with torch.no_grad():
            predictions = [prediction.cpu() for prediction in runner.model.test_step(batch)]
    except Exception as error:
        if "k out of range" in str(error):
            raise ValueError(
                f"{split}_dataloader: the network has fewer queries than boxes to predict: set test_cfg.max_per_img "
                "(100 by default) to at most their number"
            ) from error
        runner.logger.warning(
            f"{split}_dataloader: predicting the first and the last image fails: {describe_failure(error)}"
        )
        return None
    _check_predictions(key, metrics, dataset, predictions)
    if any(type(metric).__name__ in ("VOCMetric", "DetectionMetric") for metric in metrics):
        for index, prediction in zip(chosen, predictions, strict=True):
            _check_boxes(split, dataset.get_data_info(index), prediction)
    evaluator = copy.deepcopy(loop.evaluator)
    evaluator.metrics = [metric for metric in evaluator.metrics if not isinstance(metric, DumpResults)]  # writes a file
    try:
        evaluator.process(data_samples=predictions, data_batch=batch)
    except Exception as error:
        what = describe_failure(error)
        if isinstance(error, KeyError) and error.args[0] in ("gt_label", "gt_score"):
            what = "they have no label; for predictions alone take kd-mm test --out FILE.pkl with test_evaluator=[]"
        names = predictions[0].keys()
        given = sorted(name for name in names if name.startswith("pred_"))
        if isinstance(error, KeyError) and error.args[0] not in given:
            kinds = {"pred_instances": "kd_mm.DetectionMetric", "pred_label": "mmpretrain.Accuracy"}
            fitting = next((metric for name, metric in kinds.items() if name in given), "")
            what += f"; the network predicts {', '.join(given)}" + (f": take {fitting}" if fitting else "")
        raise ValueError(f"{key}: {files(predictions)} cannot be evaluated: {what}") from error
    if not is_main_process():
        return None
    runner.logger.info(f"trial of the evaluation on {len(predictions)} images as a check, no result:")
    found = _compute(key, evaluator.metrics)
    no_box = all("pred_instances" in each and not len(each.pred_instances) for each in predictions)
    return None if no_box and not found else found  # upstream's evaluators of boxes give nothing without any


def _check_predictions(key: str, metrics: Sequence[Any], dataset: Any, predictions: Sequence[Any]) -> None:
    """Stop where the metrics read more than the network predicts."""
    depths = [vars(metric).get("topk") for metric in metrics]
    depth = max((max(depth) for depth in depths if isinstance(depth, list | tuple)), default=1)
    scores = predictions[0].get("pred_score")
    if scores is not None and depth > len(scores):
        raise ValueError(
            f"{key}: topk={depth} of {len(scores)} classes is not defined: set {key}.topk to at most {len(scores)}"
        )
    if any("segm" in (vars(metric).get("metrics") or ()) for metric in metrics):
        if not any("masks" in prediction.get("pred_instances", ()) for prediction in predictions):
            raise ValueError(f"{key}: metric='segm' compares masks, and the network gives none: set metric='bbox'")
        _need(key, dataset, "segmentation", "write one, or take 'segm' out of metric")


def _check_boxes(split: str, info: Mapping[str, Any], prediction: Any) -> None:
    """Stop where the pipeline gives an evaluator that reads boxes from it others than the data set lists."""
    listed = [item["bbox"] for item in info.get("instances") or () if not item.get("ignore_flag")]
    boxes = box_tensor(prediction.get("gt_instances", {}).get("bboxes", torch.zeros(0, 4))).float().cpu()
    if listed and boxes.shape == (len(listed), 4) and (boxes - torch.tensor(listed)).abs().max() > 1:
        raise ValueError(
            f"{split}_dataloader: a step behind LoadAnnotations moves the objects of {files([prediction])}, and "
            "predictions are those of the image as stored: put LoadAnnotations behind the steps that resize or flip"
        )


def _compute(key: str, metrics: Sequence[Any]) -> dict[str, float] | None:
    """Return what processed metrics give; None where an evaluator makes nothing of so few images.

    Each computes on its own: in evaluate() other processes would wait for one that fails.
    """
    try:
        given = [
            ("/".join(filter(None, (metric.prefix, name))), value)
            for metric in metrics
            for name, value in metric.compute_metrics(metric.results).items()
        ]
    except (AssertionError, TypeError, KeyError) as error:  # upstream's words for options that do not fit
        kinds = ", ".join(type(metric).__name__ for metric in metrics)
        raise ValueError(f"{key}: an option of {kinds} does not fit: {describe_failure(error)}") from error
    except Exception:
        return None
    if twice := [name for name, count in Counter(name for name, _ in given).items() if count > 1]:
        raise ValueError(f"{key}: two metrics give {twice[0]!r}: set another prefix for one of them")
    return dict(given)
