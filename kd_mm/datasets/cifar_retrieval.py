"""CIFAR-100 as a retrieval benchmark: the classes of the test are disjoint from those of training."""

from typing import Any, ClassVar

import numpy as np
from mmpretrain.datasets.categories import CIFAR100_CATEGORIES

from kd_mm.datasets.cifar import CIFAR100
from kd_mm.datasets.utils import add_metainfo, stable_order, take_per_class
from kd_mm.registry import DATASETS
from kd_mm.utils.suggest import choice

SPLITS = ("train", "val", "test")
#: Classes 0 to 79 in the official (alphabetical) order are for training, 80 to 99 for the test.
TRAINING_CLASSES = 80
_META = ("pid", "role", "sample_idx")


@DATASETS.register_module()
class CIFAR100Retrieval(CIFAR100):
    """Retrieval over held-out classes of CIFAR-100: train on 80 classes, query and gallery come from the other 20.

    Classes take the role of identities, without cameras: evaluate with
    ``dict(type="kd_mm.ReIDMetric", camera_rule=False)``. Samples are dicts of ``img`` (32, 32, 3) uint8 RGB,
    ``gt_label`` (0 to 79, training alone), ``pid`` (official class number plus 1, since 0 means a distractor) and
    ``role``; these go into the metainfo of each data sample too, whatever the pipeline packs.

    Args:
        data_root: The folder that holds the unpacked archive.
        split: ``"train"`` (default): official training images of classes 0 to 79, without those of ``"val"``;
            ``"val"``: ``val_size`` of these classes' training images, known classes on new images; ``"test"``: the
            official test images of classes 80 to 99. The last two are queries, then a gallery.
        queries_per_class: Images of each class of ``"val"`` and ``"test"`` that are queries; the others are the
            gallery. Default 5; fixed by ``split_seed``.
        **kwargs: As for :class:`kd_mm.CIFAR100` (``val_size``, ``split_seed``, ``samples_per_class`` ...).

    Raises:
        ValueError: An unknown split, too many queries, or see :class:`kd_mm.CIFAR100`.
    """

    METAINFO: ClassVar[dict[str, Any]] = {"classes": CIFAR100_CATEGORIES}

    def __init__(self, data_root: str, split: str = "train", queries_per_class: int = 5, **kwargs: Any) -> None:
        choice("CIFAR100Retrieval: split", split, SPLITS)
        self.queries_per_class = queries_per_class
        super().__init__(data_root, split, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return one dict a sample; queries come before the gallery."""
        held_out = self.split == "test"
        samples = [s for s in super().load_data_list() if (s["gt_label"] >= TRAINING_CLASSES) == held_out]
        for sample in samples:
            sample["pid"] = sample["gt_label"] + 1
        self._metainfo["classes"] = tuple(CIFAR100_CATEGORIES[:TRAINING_CLASSES])
        if self.split == "train":
            return [{**sample, "role": "train"} for sample in samples]
        images, labels = (np.array([sample[key] for sample in samples]) for key in ("img", "gt_label"))
        fewest = int(np.unique(labels, return_counts=True)[1].min())
        if not 0 < self.queries_per_class < fewest:
            raise ValueError(
                f"CIFAR100Retrieval: queries_per_class must be 1 to {fewest - 1}, for the smallest class of "
                f"{self.split!r} has {fewest} images; got {self.queries_per_class}"
            )
        queries = take_per_class(stable_order(images, self.split_seed), labels, self.queries_per_class)
        for sample, query in zip(samples, queries, strict=True):
            sample["role"] = "query" if query else "gallery"
            del sample["gt_label"]
        return sorted(samples, key=lambda sample: sample["role"] != "query")

    def prepare_data(self, idx: int) -> Any:
        return add_metainfo(super().prepare_data(idx), self.get_data_info(idx), _META)
