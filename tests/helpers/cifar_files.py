"""Write small copies of the official CIFAR archives."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from mmpretrain.datasets.categories import CIFAR10_CATEGORIES, CIFAR100_CATEGORIES

PER_CLASS = 4


def rows_of(images: np.ndarray) -> np.ndarray:
    """Convert (N, 32, 32, 3) to the rows of the official files: all red values, then green, then blue."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def make_images(classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.random.RandomState(seed).permutation(np.repeat(np.arange(classes), PER_CLASS))
    return np.random.RandomState(seed + 1).randint(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8), labels


def write_cifar100(root: Path, order: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    folder = root / "cifar-100-python"
    images, labels = make_images(100, 0)
    order = np.arange(len(labels)) if order is None else order
    coarse = [0] * len(labels)
    train = {"data": rows_of(images[order]), "fine_labels": labels[order].tolist(), "coarse_labels": coarse}
    write(folder / "train", train)
    test_images, test_labels = make_images(100, 5)
    write(folder / "test", {"data": rows_of(test_images), "fine_labels": test_labels.tolist(), "coarse_labels": coarse})
    write(folder / "meta", {"fine_label_names": list(CIFAR100_CATEGORIES), "coarse_label_names": ["x"]})
    return images, labels


def write_cifar10(root: Path) -> tuple[np.ndarray, np.ndarray]:
    folder = root / "cifar-10-batches-py"
    parts = [make_images(10, seed) for seed in range(6)]
    for name, (images, labels) in zip([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], parts, strict=True):
        write(folder / name, {"data": rows_of(images), "labels": labels.tolist(), "batch_label": name})
    write(folder / "batches.meta", {"label_names": list(CIFAR10_CATEGORIES), "num_cases_per_batch": 40})
    return np.concatenate([part[0] for part in parts[:5]]), np.concatenate([part[1] for part in parts[:5]])
