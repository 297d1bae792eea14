"""A sweep made small enough for a trial: one epoch of a few steps on generated images."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmpretrain.datasets.categories import CIFAR100_CATEGORIES

from kd_mm.apis.rows import Sweep
from kd_mm.utils.atomic_files import replace_file

#: Images of the training set and of the test set, and images a step.
IMAGES, BATCH = 8, 4


def shrink(sweep: Sweep, folder: Path) -> Sweep:
    """Return the sweep with every row cut to one epoch of two steps on eight generated images.

    Args:
        sweep: Rows whose data are CIFAR-100; its rows, seeds and metrics stay.
        folder: Where the images are written, in the layout of the official archive.

    Raises:
        ValueError: A row has other data.
    """
    write_cifar100(folder)
    rows = {name: replace(row, config=_shrink(name, row.config, folder)) for name, row in sweep.rows.items()}
    return replace(sweep, rows=rows)


def _shrink(row: str, config: Config, folder: Path) -> Config:
    config = copy.deepcopy(config)
    config.train_cfg.update(max_epochs=1)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loader = config[name]
        if not str(loader.dataset.get("type")).endswith("CIFAR100"):
            raise ValueError(
                f"--smoke generates CIFAR-100 alone; {name} of row {row} reads {loader.dataset.get('type')}"
            )
        loader.update(batch_size=BATCH, num_workers=0, persistent_workers=False)
        loader.dataset.update(data_root=str(folder), allow_partial=True)
    if "teacher_check" in config.default_hooks:
        config.default_hooks.teacher_check.min_score = 0.0
    return config


def write_cifar100(folder: Path) -> None:
    """Write noise in the layout of the CIFAR-100 archive below a folder."""
    root = folder.absolute() / "cifar-100-python"
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(0)
    parts: dict[str, Any] = {"meta": {"fine_label_names": list(CIFAR100_CATEGORIES)}}
    for part in ("train", "test"):
        images = random.randint(0, 256, (IMAGES, 3072), dtype=np.uint8)
        parts[part] = {"data": images, "fine_labels": random.randint(0, 100, IMAGES).tolist()}
    for part, content in parts.items():
        replace_file(root / part, pickle.dumps(content))
