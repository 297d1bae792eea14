"""CIFAR-10 and CIFAR-100 from the official Python archives: no download, no checksums, a validation split."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mmpretrain.datasets import BaseDataset
from mmpretrain.datasets.categories import CIFAR10_CATEGORIES, CIFAR100_CATEGORIES
from numpy.typing import NDArray

from kd_mm.datasets.utils import load_arrays, require_layout, stable_order, take_per_class
from kd_mm.registry import DATASETS
from kd_mm.utils.suggest import choice

SPLITS = ("train", "val", "trainval", "test")


@DATASETS.register_module()
class CIFAR10(BaseDataset):
    """CIFAR-10 in ``data_root/cifar-10-batches-py``; samples are dicts of ``img`` (32, 32, 3) uint8 RGB, ``gt_label``.

    The official training set has no validation part. ``"train"`` and ``"val"`` cut one from it, class-balanced and
    fixed: the same images for the same ``split_seed``, whatever their order in the files.

    Args:
        data_root: The folder that holds the unpacked archive.
        split: ``"trainval"`` (default): all official training images; ``"val"``: ``val_size`` of them; ``"train"``: the
            others; ``"test"``: the official test images.
        val_size: Images in ``"val"``, a multiple of the number of classes. Default 5000.
        split_seed: Decides which images these are, and which ones ``samples_per_class`` keeps. Default 0.
        samples_per_class: Keep this many images of each class of the split, for small trials. Default: all.
        allow_partial: Accept files that hold another number of images than the official ones. Default ``False``.
        test_mode: As in mmengine: a failing sample is an error.
        **kwargs: As for mmpretrain's ``BaseDataset`` (``pipeline``, ``metainfo``, ``indices`` ...).

    Raises:
        FileNotFoundError: If a file of the archive is missing; the message names it and its source.
        ValueError: For an unknown split, a ``val_size`` that does not fit, a damaged file or a wrong count of images.
    """

    METAINFO: ClassVar[dict[str, Any]] = {"classes": CIFAR10_CATEGORIES}
    title: ClassVar[str] = "CIFAR-10"
    folder: ClassVar[str] = "cifar-10-batches-py"
    archive: ClassVar[str] = "cifar-10-python.tar.gz"
    train_files: ClassVar[tuple[str, ...]] = tuple(f"data_batch_{number}" for number in range(1, 6))
    test_files: ClassVar[tuple[str, ...]] = ("test_batch",)
    meta_file: ClassVar[str] = "batches.meta"
    label_key: ClassVar[str] = "labels"
    names_key: ClassVar[str] = "label_names"
    images_per_file: ClassVar[dict[str, int]] = {}
    default_images: ClassVar[int] = 10_000

    def __init__(
        self,
        data_root: str,
        split: str = "trainval",
        val_size: int = 5000,
        split_seed: int = 0,
        samples_per_class: int | None = None,
        allow_partial: bool = False,
        test_mode: bool = False,
        **kwargs: Any,
    ) -> None:
        self.split = choice(f"{self.title}: split", split, SPLITS)
        self.val_size = val_size
        self.split_seed = split_seed
        self.samples_per_class = samples_per_class
        self.allow_partial = allow_partial
        super().__init__(ann_file="", data_root=data_root, data_prefix="", test_mode=test_mode, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return one dict a sample: ``img`` (32, 32, 3) uint8 RGB and ``gt_label``."""
        root = Path(self.data_root).expanduser() / self.folder
        require_layout(
            self.title,
            root,
            (*self.train_files, *self.test_files, self.meta_file),
            f"https://www.cs.toronto.edu/~kriz/cifar.html ({self.archive}, the Python version)",
        )
        self._check_names(root / self.meta_file)
        files = self.test_files if self.split == "test" else self.train_files
        parts = [self._read(root / name) for name in files]
        contents = {part[0].tobytes(): name for part, name in zip(parts, files, strict=True)}
        if len(contents) < len(files):
            copied = sorted(set(files) - set(contents.values()))
            raise ValueError(f"{root}: the images of {' and '.join(copied)} are those of another file: get it anew")
        images = np.ascontiguousarray(np.concatenate([part[0] for part in parts]))
        labels = np.concatenate([part[1] for part in parts])
        return [
            {"img": images[index], "gt_label": int(labels[index])}
            for index in np.flatnonzero(self._mask(images, labels))
        ]

    def _read(self, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read one file: images ``(N, 32, 32, 3)`` and labels ``(N,)``."""
        content = load_arrays(path)
        where = path.absolute()
        rows, labels = content.get("data"), content.get(self.label_key)
        if rows is None or labels is None:
            raise ValueError(f"{where} holds {sorted(content)}, but not both 'data' and {self.label_key!r}")
        rows, labels = np.asarray(rows), np.asarray(labels)
        if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
            raise ValueError(f"{where}: 'data' is {rows.dtype} of shape {rows.shape}; it should be uint8, (N, 3072)")
        if labels.shape != (len(rows),) or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"{where}: {len(rows)} images, but labels of shape {labels.shape}, type {labels.dtype}")
        classes = len(self.METAINFO["classes"])
        if len(labels) and (labels.min() < 0 or labels.max() >= classes):
            raise ValueError(
                f"{where}: labels from {labels.min()} to {labels.max()}; they should be 0 to {classes - 1}"
            )
        official = self.images_per_file.get(path.name, self.default_images)
        if len(rows) != official and not self.allow_partial:
            raise ValueError(
                f"{where} holds {len(rows)} images, the official file {official}: get it anew, or set "
                "allow_partial=True if it is meant to be a part"
            )
        return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels.astype(np.int64)

    def _check_names(self, path: Path) -> None:
        names = load_arrays(path).get(self.names_key)
        official = list(self.METAINFO["classes"])
        if names is None or list(names) != official:
            raise ValueError(
                f"{path.absolute()}: {self.names_key!r} is not the official list of {len(official)} class names, so "
                "labels may mean other classes: get the file anew"
            )

    def _mask(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = np.ones(len(labels), dtype=bool)
        if self.split in ("trainval", "test") and self.samples_per_class is None:
            return mask
        order = stable_order(images, self.split_seed)
        if self.split in ("train", "val"):
            classes = len(self.METAINFO["classes"])
            if self.val_size <= 0 or self.val_size % classes or self.val_size >= len(labels):
                raise ValueError(
                    f"{self.title}: val_size must be a multiple of {classes} below the {len(labels)} training images, "
                    f"got {self.val_size}"
                )
            validation = take_per_class(order, labels, self.val_size // classes)
            mask = validation if self.split == "val" else ~validation
        if self.samples_per_class is not None:
            mask = take_per_class(order[mask[order]], labels, self.samples_per_class)
        return mask


@DATASETS.register_module()
class CIFAR100(CIFAR10):
    """CIFAR-100 (fine labels) in ``data_root/cifar-100-python``; everything else as :class:`CIFAR10`."""

    METAINFO: ClassVar[dict[str, Any]] = {"classes": CIFAR100_CATEGORIES}
    title = "CIFAR-100"
    folder = "cifar-100-python"
    archive = "cifar-100-python.tar.gz"
    train_files = ("train",)
    test_files = ("test",)
    meta_file = "meta"
    label_key = "fine_labels"
    names_key = "fine_label_names"
    images_per_file: ClassVar[dict[str, int]] = {"train": 50_000}
