"""mmpretrain's CUB-200-2011 and ImageNet, with one clear line where the data set is missing."""

from pathlib import Path
from typing import Any

from mmpretrain.datasets import CUB as UpstreamCUB
from mmpretrain.datasets import ImageNet as UpstreamImageNet

from kd_mm.datasets.layout import require_layout
from kd_mm.registry import DATASETS


@DATASETS.register_module()
class CUB(UpstreamCUB):
    """mmpretrain's ``CUB``; same arguments.

    Raises:
        FileNotFoundError: If ``data_root`` lacks a part of the official layout.
    """

    def __init__(self, data_root: str, **kwargs: Any) -> None:
        require_layout(
            "CUB-200-2011",
            data_root,
            ("images.txt", "image_class_labels.txt", "train_test_split.txt", "images/"),
            "https://data.caltech.edu/records/65de6-vp158 (CUB_200_2011.tgz)",
        )
        super().__init__(data_root, **kwargs)


@DATASETS.register_module()
class ImageNet(UpstreamImageNet):
    """mmpretrain's ``ImageNet``; same arguments.

    Raises:
        FileNotFoundError: If ``data_root`` lacks the folder of the split, or that folder has neither class folders nor
            a list ``meta/<split>.txt``.
    """

    def __init__(self, data_root: str = "", split: str = "", **kwargs: Any) -> None:
        root = Path(data_root).expanduser()
        if split in ("train", "val"):
            # A flat folder of images needs the list of labels; upstream would read it as a data set of no classes.
            flat = (root / split).is_dir() and not any(entry.is_dir() for entry in (root / split).iterdir())
            require_layout(
                "ImageNet-1k",
                root,
                (f"{split}/", f"meta/{split}.txt") if flat and not kwargs.get("ann_file") else (f"{split}/",),
                "https://image-net.org/download-images.php (ILSVRC 2012; one folder a class, or images and "
                f"meta/{split}.txt with 'name label' lines)",
            )
        super().__init__(data_root=data_root, split=split, **kwargs)
