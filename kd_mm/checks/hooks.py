"""Hooks that stop a run before its first step where something that it needs later is missing or does not fit."""

import contextlib
import copy
import multiprocessing
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.visualization import DetLocalVisualizer
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import DATASETS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import IterableDataset

from kd_mm.checks.batches import check_batch, check_labels, explain_step
from kd_mm.checks.classes import class_list, compare_classes
from kd_mm.checks.data import check_data
from kd_mm.checks.masks import check_mixed_masks
from kd_mm.checks.schedules import check_schedules
from kd_mm.checks.shared_samples import check_shared
from kd_mm.checks.weights import check_frozen, check_parameter_keys
from kd_mm.distillers import Distiller
from kd_mm.models.triplet_loss import TripletLoss
from kd_mm.tasks import is_multilabel
from kd_mm.utils.config import normalizing_steps
from kd_mm.utils.contexts import isolated_rng, unwrapped
from kd_mm.utils.samples import (
    SampleError,
    base_datasets,
    describe_failure,
    files,
    name_errors,
    without_slice,
)
from kd_mm.utils.suggest import describe_error, join_first


class StepHook(Hook):
    """Knows whether training has begun, whether a step is under way, and its batch.

    The first step of a distillation removes the ``student.pth`` of an earlier run: a killed run leaves no old one.

    Attributes:
        loops_built: The loops and their data are built.
        begun, ended: The first step has begun, and has ended.
        under_way: A step has begun and not ended; an error now is not one of the config.
        key: Where the config has the data of the batch.
        batch: The batch of a step of training, validation or test that has begun and not ended.
    """

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self.loops_built = self.begun = self.under_way = self.ended = False
        self.key, self.batch = "", None

    def before_run(self, runner: Runner) -> None:
        self.loops_built = True

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = "train") -> None:
        if mode == "train":
            if not self.begun:
                check_labels("train_dataloader", data_batch, unwrapped(runner))
            if not self.begun and is_main_process() and isinstance(unwrapped(runner), Distiller):
                with contextlib.suppress(FileNotFoundError):
                    Path(runner.work_dir, "student.pth").unlink()
                    runner.logger.info("student.pth of an earlier run is removed; this run writes it at its end")
            self.begun = self.under_way = True
        self.key, self.batch = f"{mode}_dataloader", data_batch

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        self.under_way, self.ended, self.batch = False, True, None

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self.batch = None

    def explain(self, runner: Runner, error: Exception) -> None:
        """Look for what failed in the images of the batch.

        Raises:
            SampleError: See :func:`kd_mm.checks.batches.explain_step`.
        """
        if self.batch is not None:
            explain_step(self.key, self.batch, unwrapped(runner), error, not self.ended)


class StartCheckHook(Hook):
    """Compares files of weights, names of parameters and schedules with the model and the run that were built."""

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        """Check them.

        Raises:
            ValueError: See :func:`~kd_mm.checks.weights.check_parameter_keys` and
                :func:`~kd_mm.checks.schedules.check_schedules`; a hook cannot write its files, or draw.
        """
        if Path(runner.work_dir, "last_checkpoint").is_file() and not runner.cfg.get("resume"):
            line = "holds an earlier run, whose files of the same names this one replaces; --resume goes on with it"
            runner.logger.warning(f"{runner.work_dir} {line}")
        _check_writing(runner)
        check_frozen(runner)
        check_parameter_keys(runner)
        check_schedules(runner)


def _check_writing(runner: Runner) -> None:
    """Let hooks that write later do so now: make the folder of the checkpoints, and find what draws."""
    for hook in runner.hooks:
        folder = vars(hook).get("out_dir") if isinstance(hook, CheckpointHook) else None
        if folder and "://" not in str(folder) and is_main_process():
            try:
                os.makedirs(folder, exist_ok=True)
            except OSError as error:
                raise ValueError(f"default_hooks.checkpoint.out_dir: {describe_error(error)}") from error
        draws = isinstance(hook, DetVisualizationHook) and (hook.draw or hook.test_out_dir)
        if draws and not isinstance(runner.visualizer, DetLocalVisualizer):
            raise ValueError("DetVisualizationHook: set visualizer=dict(type='mmdet.DetLocalVisualizer')")


class DataCheckHook(Hook):
    """Checks the data of training, validation and test (:func:`kd_mm.checks.data.check_data`).

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
            ValueError: See :func:`kd_mm.checks.data.check_data`.
        """
        loader = runner.train_loop.dataloader
        training = loader.dataset
        channels = _check_loader(runner, "train_dataloader", loader)
        if runner.val_loop is not None:
            others = _check_loader(runner, "val_dataloader", runner.val_loop.dataloader)
            if channels and others and others != channels:
                line = f"the first images have {[*others]} channels, those of the training {[*channels]}"
                runner.logger.warning(f"val_dataloader: {line}: give LoadImageFromFile the same color_type")
            if is_main_process():
                check_shared("val_dataloader", runner.val_loop.dataloader.dataset, training)
        validation, test = (runner.cfg.get(f"{part}_dataloader") or {} for part in ("val", "test"))
        if not test or test.get("dataset") == validation.get("dataset") or not is_main_process():
            return
        try:
            with isolated_rng("test data"):
                dataset = DATASETS.build(copy.deepcopy(test["dataset"]))
                _check(runner, "test_dataloader", dataset)
                check_shared("test_dataloader", dataset, training)
                compare_classes("test_dataloader", class_list(dataset), class_list(training), "the training data")
        except Exception as error:
            if self.tested:
                raise
            what = describe_error(error).splitlines()[0]
            where = "" if what.startswith("test_dataloader") else "test_dataloader: "
            runner.logger.warning(f"{where}{what} (training does not need it, a test will)")

    def before_test(self, runner: Runner) -> None:
        """Check the data set of the test.

        Raises:
            FileNotFoundError: There are images missing.
            ValueError: See :func:`kd_mm.checks.data.check_data`.
        """
        _check_loader(runner, "test_dataloader", runner.test_loop.dataloader)


class FlatBoxHook(Hook):
    """Leaves boxes without width or height out of the training batches, and warns once.

    Steps such as a resize that clips to the image can flatten a box. The logarithm of its width would make the loss
    infinite.
    """

    def __init__(self) -> None:
        self._warned = False

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        samples = data_batch.get("data_samples") if isinstance(data_batch, Mapping) else None
        for sample in samples if isinstance(samples, list | tuple) else ():
            objects = sample.get("gt_instances")
            boxes = None if objects is None else objects.get("bboxes")
            if boxes is None or not len(boxes):
                continue
            from mmdet.structures.bbox import get_box_tensor  # only a detector has boxes

            corners = torch.as_tensor(get_box_tensor(boxes))
            sides = corners[:, 2:4] if corners.shape[1] > 4 else corners[:, 2:] - corners[:, :2]  # rotated: x, y, w, h
            flat = ~(sides > 0).all(dim=1)
            if not flat.any():
                continue
            if not corners.isfinite().all():
                raise SampleError(f"train_dataloader: {files([sample])} has boxes that are infinite or NaN")
            sample.gt_instances = objects[~flat]
            if not self._warned:
                runner.logger.warning(
                    f"{sample.get('img_path')}: {int(flat.sum())} boxes have no width or no height after the pipeline; "
                    "such boxes are left out (the first image is named)"
                )
            self._warned = True


def _check(runner: Runner, key: str, dataset: Any) -> list[Any]:
    return check_data(key, dataset, runner.cfg.get("size_mismatch", "stop"))


def _check_loader(runner: Runner, key: str, loader: Any) -> set[int]:
    """Check a data set, and a batch of it; let errors in making batches name it; return its numbers of channels."""
    check_mixed_masks(key, loader.dataset)
    samples, model = _check(runner, key, loader.dataset), unwrapped(runner)
    here, there = normalizing_steps(runner.cfg, key), normalizing_steps(runner.cfg)
    if here is not None and there is not None and {*here} != {*there}:
        other, own = (join_first(each) or "not at all" for each in (here, there))
        raise ValueError(
            f"{key}: its pipeline normalises otherwise ({other}) than that of the training data ({own}): write the "
            "same step in both, or leave it to the data_preprocessor"
        )
    if not samples and not any(base_datasets(loader.dataset)) and not isinstance(loader.dataset, IterableDataset):
        try:
            with isolated_rng("first sample"):  # of a data set of the user's own
                first = [loader.dataset[0]]
        except Exception as error:
            name = type(loader.dataset).__name__
            raise SampleError(f"{key} ({name}): sample 0 fails: {describe_failure(error)}") from error
        with contextlib.suppress(Exception):  # a collate function of the user's own may pack it, and take more than one
            batch = loader.collate_fn(first)
            samples = [] if isinstance(batch, Mapping) and "inputs" in batch else first
    _check_batches(runner, key, loader, model)
    name_errors(key, loader)
    if isinstance(model, Distiller):
        check_batch(key, samples, loader.collate_fn, model, model.student, model.task.multilabel)
    else:
        several = is_multilabel(model) or getattr(model.data_preprocessor, "to_onehot", False)
        check_batch(key, samples, loader.collate_fn, model, model, several)
    return {len(sample["inputs"]) for sample in samples if isinstance(sample.get("inputs"), torch.Tensor)}


def _check_batches(runner: Runner, key: str, loader: Any, model: Any) -> None:
    """Check which samples make a batch: their number, their order, and images of one identity."""
    with contextlib.suppress(TypeError):  # an iterable data set has no length
        if not len(loader):
            raise ValueError(
                f"{key}: {len(loader.dataset)} samples make no batch of {loader.batch_size}: set a smaller batch_size, "
                "or drop_last=False"
            )
    sliced = without_slice(loader.dataset) is not loader.dataset
    if sliced and loader.num_workers and multiprocessing.get_start_method() != "fork":
        raise ValueError(
            f"{key}: workers that are not forked cannot take the engine's slice of a data set: set "
            "env_cfg.mp_cfg.mp_start_method='fork', or num_workers=0, or leave num_batch_per_epoch out"
        )
    trained = key == "train_dataloader"
    if loader.drop_last and not trained:
        runner.logger.warning(f"{key}: drop_last=True leaves the images of the last batch out of the evaluation")
    by_epoch = not trained or isinstance(runner.train_loop, EpochBasedTrainLoop)
    if by_epoch and isinstance(loader.sampler, InfiniteSampler):
        raise ValueError(
            f"{key}.sampler: an epoch of InfiniteSampler never ends: take DefaultSampler, or by_epoch=False"
        )
    if trained and vars(loader.sampler).get("shuffle") is False:
        runner.logger.warning(f"{key}.sampler.shuffle=False: images are learned in the order of their list")
    drawn = trained and isinstance(loader.sampler, DefaultSampler)
    triplet = drawn and any(isinstance(part, TripletLoss) for part in model.modules())
    if triplet and loader.batch_size < 2 * len(class_list(loader.dataset)):
        line = f"few of {loader.batch_size} images drawn from all are of one identity, as TripletLoss needs them"
        runner.logger.warning(f"{key}.sampler: {line}: take kd_mm.IdentitySampler")
