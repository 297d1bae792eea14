"""The training data of a run, as the preparations of its teachers read them."""

import copy
import hashlib
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.dist import get_world_size, is_main_process
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from kd_mm.distillers import Distiller
from kd_mm.engine import DeviceLoader
from kd_mm.utils.config import innermost_dataset
from kd_mm.utils.samples import base_datasets, name_errors

#: Options of a data loader that do not change what it loads.
SPEED_OPTIONS = ("num_workers", "persistent_workers", "pin_memory", "prefetch_factor")


class TrainingData:
    """Builds loaders from the config of a run.

    Args:
        runner: Of the run; its training loop is built.
        distiller: For the preprocessor and the targets.
    """

    def __init__(self, runner: Runner, distiller: Distiller) -> None:
        self.runner, self.distiller, self.config = runner, distiller, runner.cfg

    def fingerprint(self) -> list[Any]:
        """Return what decides the batches: data set and its annotations, sampler, preprocessing and augmentation."""
        loader = {k: v for k, v in self.config.train_dataloader.items() if k not in SPEED_OPTIONS}
        student = self.config.model.get("student", {})
        views = [self.config.get("data_preprocessor"), self.config.model.get("data_preprocessor")]
        contents = [_digest(part) for part in base_datasets(self.runner.train_dataloader.dataset)]
        views += [student.get("data_preprocessor"), student.get("train_cfg")]
        return [loader, *views, get_world_size(), contents]

    def changed_images(self, since: float) -> list[str]:
        """Return images that were changed after a time in seconds, of up to 1,000 of each data set."""
        parts = list(base_datasets(self.runner.train_dataloader.dataset))
        infos = (part.get_data_info(i) for part in parts for i in range(0, len(part), 1 + len(part) // 1000))
        paths = (str(info.get("img_path")) for info in infos)
        return [path for path in paths if os.path.isfile(path) and os.path.getmtime(path) > since]

    def epochs(self, options: Mapping[str, Any], source: str) -> tuple[int, list[int]]:
        """Return the length of a training, at least 1, and its milestones, all in epochs.

        ``options["epochs"]`` is a number, or ``None`` for ``fraction`` of the run, at least ``min_epochs`` or the run's
        length where that is shorter; ``milestones`` are fractions of the training; ``source`` is for messages.

        Raises:
            ValueError: A length below 1 epoch, a fraction that is not above 0, or milestones that are no fractions.
        """
        epochs, fraction, milestones = options["epochs"], options["fraction"], options["milestones"]
        if (epochs is not None and epochs < 1) or fraction <= 0:
            raise ValueError(f"{source}: epochs={epochs} must be 1 or more, fraction={fraction} of the run's above 0")
        if any(not 0 < milestone < 1 for milestone in milestones):
            raise ValueError(
                f"{source}: milestones={list(milestones)} are fractions of its own training, between 0 and 1, e.g. "
                "[0.3, 0.6, 0.9]"
            )
        if epochs is None:
            run = self.runner.max_iters / len(self.runner.train_dataloader)
            epochs = max(1, round(fraction * run), min(options["min_epochs"], round(run)))
        return epochs, [round(milestone * epochs) for milestone in milestones]

    def loader(self, key: str = "train_dataloader", chosen: Sequence[int] | None = None, shuffled: bool = False) -> Any:
        """Build a loader of the config, an epoch of which is one pass over its data, or the samples ``chosen``.

        Args:
            key: Of the loader in the config.
            chosen: Indices of samples.
            shuffled: Whether the order is a fixed random one, without workers; by default it is the config's.
        """
        config = copy.deepcopy(dict(self.config[key]))
        config["persistent_workers"] = False
        if shuffled:
            config["sampler"], config["num_workers"] = {"type": "DefaultSampler", "shuffle": True, "seed": 0}, 0
            config.pop("prefetch_factor", None)
        if "InfiniteSampler" in str(config.get("sampler", {}).get("type")):
            config["sampler"] = {"type": "DefaultSampler", "shuffle": True}
        if chosen is not None:
            config["dataset"] = Subset(self._build(config["dataset"]), list(chosen))
        built = self.runner.build_dataloader(config, seed=0)
        name_errors(key, built)
        for hook in self.runner.hooks if key == "train_dataloader" else ():
            if isinstance(hook, DeviceLoader) and hook.images is not None:
                return hook.images.loader(built, chosen)
        return built

    def plain_dataset(self) -> tuple[dict[str, Any], bool]:
        """Return the config of the training data set with the pipeline of the validation data, and whether that fits.

        The training pipeline stays, augmentation included, without validation data and where data sets are joined.
        """
        config = copy.deepcopy(dict(self.config.train_dataloader["dataset"]))
        validation = self.config.get("val_dataloader") or {}
        pipeline = innermost_dataset(dict(validation.get("dataset") or {})).get("pipeline")
        inner = innermost_dataset(config)
        if pipeline is None or "pipeline" not in inner:
            return config, False
        inner["pipeline"] = copy.deepcopy(pipeline)
        return config, True

    @torch.no_grad()
    def collect_over_dataset(
        self, read: Callable[[Tensor], Mapping[str, Tensor]], title: str, limit: int | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Read each image of :meth:`plain_dataset` once, in order.

        Args:
            read: Maps a preprocessed batch ``(B, C, H, W)`` to tensors ``(B, ...)`` by name.
            title: Label of the progress bar.
            limit: At most so many images, a fixed random choice.

        Returns:
            What ``read`` returned, ``(N, ...)`` by name, and the labels ``(N,)``, on the CPU.

        Raises:
            ValueError: The targets are not one class an image.
        """
        config, is_plain = self.plain_dataset()
        if not is_plain:
            self.runner.logger.warning(f"{title}: no validation pipeline fits, so the images are augmented")
        dataset = self._build(config)
        if limit is not None and limit < len(dataset):
            order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:limit]
            dataset = Subset(dataset, order.sort().values.tolist())
        settings = self.config.train_dataloader
        size, workers = max(int(settings.get("batch_size", 64)), 64), int(settings.get("num_workers", 0))
        loader: Any = DataLoader(dataset, size, num_workers=workers, collate_fn=pseudo_collate)
        parts: list[dict[str, Tensor]] = []
        labels: list[Tensor] = []
        for batch in progress(loader, title):
            data = self.distiller.data_preprocessor(batch, False)
            parts.append({name: tensor.cpu() for name, tensor in read(data["inputs"]).items()})
            labels.append(_classes(self.distiller.task.targets(data["data_samples"])).cpu())
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, torch.cat(labels)

    def _build(self, config: Any) -> Any:
        with DefaultScope.overwrite_default_scope(self.config.get("default_scope")):
            return DATASETS.build(config)


def progress(loader: Any, title: str) -> Any:
    """Iterate over ``loader`` with a progress bar on the main process."""
    return track(loader, title, total=len(loader), transient=True, disable=not is_main_process())


def _digest(dataset: BaseDataset) -> str:
    """Return a hash of what a data set lists: paths, labels, boxes."""
    listed = dataset.data_bytes if dataset.serialize_data else pickle.dumps(dataset.data_list)
    return hashlib.sha256(listed).hexdigest()


def _classes(targets: Any) -> Tensor:
    if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point():
        raise ValueError(
            "preparing teachers on the training images needs one class an image, as in classification and "
            "re-identification: take another recipe for this task"
        )
    return targets
