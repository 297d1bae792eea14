"""Handwritten digits that come with scikit-learn: real images without a download."""

from functools import cache
from typing import Any, ClassVar

import mmcv
import numpy as np
from mmpretrain.datasets import BaseDataset
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from kd_mm.datasets.utils import stable_order, take_per_class
from kd_mm.registry import DATASETS
from kd_mm.utils.suggest import choice

#: Images a class in the two held-out splits; training has what is left, 74 to 83 a class.
VAL_PER_CLASS, TEST_PER_CLASS = 40, 60
SPLITS = ("train", "val", "test")


@cache
def _originals() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images ``(1797, 8, 8)`` and labels ``(1797,)``; parsed once, training and validation share them."""
    source = load_digits()
    # The originals count dark dots in 4 x 4 blocks: 0 to 16.
    return np.rint(source.images * (255 / 16)).astype(np.uint8), source.target.astype(np.int64)


@DATASETS.register_module()
class Digits(BaseDataset):
    """The 1,797 digits of scikit-learn (8 x 8, grey), enlarged.

    Samples are dicts of ``img`` (S, S, 3) uint8 and ``gt_label``. The splits are fixed, disjoint and stratified:
    600 test images (60 a class), 400 validation images (40 a class), 797 training images.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``.
        size: S, height and width in pixels; bilinear enlargement. Default 16.
        samples_per_class: Keep this many images of each class of the split, always the same ones. Default: all.
        test_mode: As in mmengine: a failing sample is an error.
        **kwargs: As for mmpretrain's ``BaseDataset`` (``pipeline``, ``metainfo``, ``indices`` ...).

    Raises:
        ValueError: For an unknown split, a size below 8, or more ``samples_per_class`` than there are.
    """

    METAINFO: ClassVar[dict[str, Any]] = {"classes": [str(digit) for digit in range(10)]}

    def __init__(
        self,
        split: str = "train",
        size: int = 16,
        samples_per_class: int | None = None,
        test_mode: bool = False,
        **kwargs: Any,
    ) -> None:
        choice("Digits: split", split, SPLITS)
        if size < 8:
            raise ValueError(f"Digits: size must be at least 8, the pixels of the originals, got {size}")
        self.split, self.size, self.samples_per_class = split, size, samples_per_class
        kwargs.setdefault("serialize_data", False)  # meant for sets too large to be copied to each worker
        super().__init__(ann_file="", test_mode=test_mode, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return one dict a sample: ``img`` (S, S, 3) uint8, three equal channels, and ``gt_label``."""
        images, labels = _originals()
        return [
            {"img": self._enlarge(images[index]), "gt_label": int(labels[index])}
            for index in np.flatnonzero(self._mask(images, labels))
        ]

    def _enlarge(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        grey = mmcv.imresize(image, (self.size, self.size), interpolation="bilinear")
        return np.repeat(grey[:, :, None], 3, axis=2)

    def _mask(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mark the chosen images of the split."""
        order = stable_order(images, seed=0)
        test = take_per_class(order, labels, TEST_PER_CLASS)
        val = take_per_class(order[~test[order]], labels, VAL_PER_CLASS)
        mask = {"test": test, "val": val, "train": ~(test | val)}[self.split]
        if self.samples_per_class is not None:
            mask = take_per_class(order[mask[order]], labels, self.samples_per_class)
        return mask
