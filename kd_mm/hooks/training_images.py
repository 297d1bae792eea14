"""What frozen teachers show of the training images, each looked at once, in fixed order and without augmentation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner
from rich.progress import Progress as ProgressBar
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from kd_mm.distillers import Distiller


def plain_training_data(runner: Runner) -> tuple[dict[str, Any], bool]:
    """Return the config of the training data set with the pipeline of the validation data, and whether there was one.

    The training pipeline stays, augmentation included, where there is none, or where several data sets are joined.
    """
    config = copy.deepcopy(dict(runner.cfg["train_dataloader"]["dataset"]))
    validation = runner.cfg.get("val_dataloader") or {}
    pipeline = _inner(dict(validation.get("dataset") or {})).get("pipeline")
    inner = _inner(config)
    if pipeline is None or "pipeline" not in inner:
        return config, False
    inner["pipeline"] = copy.deepcopy(pipeline)
    return config, True


def _inner(config: Any) -> Any:
    """Return the config of the data set inside its wrappers."""
    while "dataset" in config and "pipeline" not in config:
        config = config["dataset"]
    return config


@torch.no_grad()
def look_at_all(
    runner: Runner,
    distiller: Distiller,
    config: Mapping[str, Any],
    look: Callable[[Tensor], Mapping[str, Tensor]],
    title: str,
    max_images: int | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Return what ``look`` gives for each image, on the CPU, and the class of each.

    With several processes each looks at a share, and all get everything.

    Args:
        runner: For its data loader's settings.
        distiller: For the preprocessor and the targets.
        config: Of the data set.
        look: Takes a batch ``(B, 3, H, W)`` in the student's view, gives tensors ``(B, ...)`` by name.
        title: Shown beside the progress bar.
        max_images: At most so many, a fixed random choice.

    Returns:
        Tensors ``(N, ...)`` by name, and labels ``(N,)`` int64.

    Raises:
        ValueError: The targets are not one class an image.
    """
    with DefaultScope.overwrite_default_scope(runner.cfg.get("default_scope")):
        dataset: Any = DATASETS.build(copy.deepcopy(dict(config)))
    order = torch.arange(len(dataset))
    if max_images is not None and max_images < len(dataset):
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:max_images].sort().values
    mine = order[get_rank() :: get_world_size()].tolist()
    settings = runner.cfg["train_dataloader"]
    loader: Any = DataLoader(
        Subset(dataset, mine),
        batch_size=max(int(settings.get("batch_size", 64)), 64),
        num_workers=int(settings.get("num_workers", 0)),
        collate_fn=pseudo_collate,
    )
    found: list[dict[str, Tensor]] = []
    labels: list[Tensor] = []
    with ProgressBar(disable=not is_main_process(), transient=True) as bar:
        task = bar.add_task(title, total=len(loader))
        for batch in loader:
            data = distiller.data_preprocessor(batch, False)
            found.append({name: tensor.cpu() for name, tensor in look(data["inputs"]).items()})
            labels.append(_classes(distiller.task.targets(data["data_samples"])).cpu())
            bar.advance(task)
    shown = {name: torch.cat([part[name] for part in found]) for name in (found[0] if found else ())}
    return _gathered(mine, shown, torch.cat(labels) if labels else torch.zeros(0, dtype=torch.int64))


def _classes(targets: Any) -> Tensor:
    if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point():
        raise ValueError(
            "preparing teachers on the training images needs one class an image, as in classification and "
            "re-identification: take another recipe for this task"
        )
    return targets


def _gathered(mine: list[int], shown: dict[str, Tensor], labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    if get_world_size() == 1:
        return shown, labels
    shares: list[tuple[list[int], dict[str, Tensor], Tensor]] = all_gather_object((mine, shown, labels))
    shares = [share for share in shares if share[0]]
    order = torch.tensor([index for share in shares for index in share[0]]).argsort()
    merged = {name: torch.cat([share[1][name] for share in shares])[order] for name in shares[0][1]}
    return merged, torch.cat([share[2] for share in shares])[order]
