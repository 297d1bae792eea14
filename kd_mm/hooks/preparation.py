"""What the hooks that train something on the frozen teachers before distillation have in common."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner
from torch.utils.data import Subset

from kd_mm.engine.atomic_files import replace_file


def in_epochs(options: Mapping[str, Any], runner: Runner, name: str) -> dict[str, Any]:
    """Return the options of a preparation with its length in epochs.

    Args:
        options: With ``epochs`` (a number, or ``None`` for ``fraction`` of the epochs of the whole run) and
            ``milestones``, fractions of the preparation.
        runner: Its training loop is built.
        name: What the options are called in a config, for messages.

    Returns:
        The options without ``fraction``; ``epochs``, at least 1, and ``milestones`` are whole epochs.

    Raises:
        ValueError: A length below 1 epoch or a fraction that is not above 0, or milestones that are no fractions.
    """
    found = dict(options)
    epochs, fraction, milestones = found["epochs"], found.pop("fraction"), found["milestones"]
    if (epochs is not None and epochs < 1) or fraction <= 0:
        raise ValueError(f"{name}: epochs={epochs} must be 1 or more, fraction={fraction} of the run's above 0")
    if any(not 0 < milestone < 1 for milestone in milestones):
        raise ValueError(
            f"{name}: milestones={list(milestones)} are fractions of its own training, between 0 and 1, e.g. "
            "[0.3, 0.6, 0.9]"
        )
    if epochs is None:
        epochs = max(1, round(fraction * runner.max_iters / len(runner.train_dataloader)))
    return {**found, "epochs": epochs, "milestones": [round(milestone * epochs) for milestone in milestones]}


def result_folder(cache_dir: str | None, runner: Runner) -> Path:
    """Return the folder of a preparation's result."""
    return Path(cache_dir or runner.work_dir)


def data_loader(runner: Runner, key: str = "train_dataloader", chosen: Sequence[int] | None = None) -> Any:
    """Build a data loader of the run's config, an epoch of which is one pass over its data.

    Args:
        runner: Of the run.
        key: Where its config stands.
        chosen: Indices of the samples that are loaded; default: all.
    """
    config = copy.deepcopy(dict(runner.cfg[key]))
    config["persistent_workers"] = False
    if "InfiniteSampler" in str(config.get("sampler", {}).get("type")):
        config["sampler"] = {"type": "DefaultSampler", "shuffle": True}
    if chosen is not None:
        with DefaultScope.overwrite_default_scope(runner.cfg.get("default_scope")):
            config["dataset"] = Subset(DATASETS.build(config["dataset"]), list(chosen))
    return runner.build_dataloader(config, seed=0)


def save_whole(state: dict[str, Any], path: Path) -> None:
    """Write a state that ``torch.load(weights_only=True)`` reads, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    replace_file(path, buffer.getvalue())
