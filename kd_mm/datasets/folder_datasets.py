"""CUB-200-2011, ImageNet and Tiny ImageNet in their official layouts."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from mmpretrain.datasets import CUB as UpstreamCUB
from mmpretrain.datasets import BaseDataset
from mmpretrain.datasets import ImageNet as UpstreamImageNet

from kd_mm.datasets.image_files import is_image
from kd_mm.datasets.text_files import read_lines, read_text
from kd_mm.datasets.utils import require_layout
from kd_mm.registry import DATASETS
from kd_mm.utils.suggest import join_first, warn


@DATASETS.register_module()
class CUB(UpstreamCUB):
    """mmpretrain's ``CUB``; same arguments.

    Raises:
        FileNotFoundError: If ``data_root`` lacks a part of the official layout.
        ValueError: If a line of its lists has not two columns, its label or part of the split is no such number, or the
            lists are not of the same images.
    """

    def __init__(self, data_root: str, **kwargs: Any) -> None:
        require_layout(
            "CUB-200-2011",
            data_root,
            ("images.txt", "image_class_labels.txt", "train_test_split.txt", "images/"),
            "https://data.caltech.edu/records/65de6-vp158 (CUB_200_2011.tgz)",
        )
        values = {
            "images.txt": (r"\S+", "its path"),
            "image_class_labels.txt": (r"[1-9]\d*", "its class, counted from 1"),
            "train_test_split.txt": ("[01]", "1 for training or 0 for the test"),
        }
        images: set[str] = set()
        for name, (value, meaning) in values.items():
            lines = read_lines(Path(data_root) / name)
            for number, line in enumerate(lines, start=1):
                if not re.fullmatch(rf"\d+\s+{value}", line):
                    raise ValueError(
                        f"{data_root}/{name}: line {number} is {line!r}, not an image's number and {meaning}"
                    )
            counts = Counter(line.split()[0] for line in lines)
            if twice := [number for number, count in counts.items() if count > 1]:
                raise ValueError(f"{data_root}/{name}: images have several lines, number {join_first(twice)}")
            numbers = set(counts)
            images = images or numbers
            if differing := sorted(images ^ numbers, key=int):
                raise ValueError(
                    f"{data_root}: images.txt and {name} have not the same images, only one of them has the numbers "
                    f"{join_first(differing)}: unpack anew"
                )
        super().__init__(data_root, **kwargs)


@DATASETS.register_module()
class ImageNet(UpstreamImageNet):
    """mmpretrain's ``ImageNet``; same arguments.

    Raises:
        FileNotFoundError: If ``data_root`` lacks the folder of the split, or that folder has neither class folders nor
            a list ``meta/<split>.txt``, or archives of classes that are not unpacked.
        ValueError: If there are more or fewer class folders than classes.
    """

    def __init__(self, data_root: str = "", split: str = "", **kwargs: Any) -> None:
        root = Path(data_root).expanduser()
        if split in ("train", "val"):
            packed = sorted(file.name for file in (root / split).glob("*.tar") if not file.with_suffix("").is_dir())
            if packed:
                raise FileNotFoundError(
                    f"ImageNet-1k: {root / split} holds archives ({join_first(packed)}): unpack each into a folder of "
                    "its name"
                )
            # A flat folder of images needs the list of labels; upstream would read it as a data set of no classes.
            flat = (root / split).is_dir() and not any(entry.is_dir() for entry in (root / split).iterdir())
            require_layout(
                "ImageNet-1k",
                root,
                (f"{split}/", f"meta/{split}.txt") if flat and not kwargs.get("ann_file") else (f"{split}/",),
                "https://image-net.org/download-images.php (ILSVRC 2012; one folder a class, or images and "
                f"meta/{split}.txt with 'name label' lines)",
            )
        try:
            super().__init__(data_root=data_root, split=split, **kwargs)
        except AssertionError as error:  # which names no folder
            raise ValueError(f"ImageNet-1k: {root / split}: {error}") from error


@DATASETS.register_module()
class TinyImageNet(BaseDataset):
    """Tiny ImageNet; samples are dicts of ``img_path`` and ``gt_label``.

    The labels count the identifiers (``n01443537`` ...) in sorted order, as a class-folder reader numbers them and as
    public checkpoints expect, not in the order of ``wnids.txt``. The classes in ``metainfo`` are the descriptions of
    ``words.txt``. The official test images have no labels: results are reported on ``"val"``, whose images may also lie
    in one folder a class, as public scripts sort them.

    Args:
        data_root: The folder ``tiny-imagenet-200`` with ``wnids.txt``, ``words.txt``, ``train`` and ``val``.
        split: ``"train"`` (default, 100,000 images) or ``"val"`` (10,000).
        metainfo: Overrides what is found in the files.
        **kwargs: As for mmpretrain's ``BaseDataset``.

    Raises:
        FileNotFoundError: If the layout is not complete; the message names what is missing and its source.
        ValueError: For an unknown split or a damaged annotation file.
    """

    def __init__(
        self, data_root: str, split: str = "train", metainfo: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"Tiny ImageNet: split must be 'train' or 'val' (test has no labels), got {split!r}")
        self.split = split
        root = Path(data_root).expanduser()
        self._listed = split == "val" and not any(entry.is_dir() for entry in (root / "val").glob("n*"))
        entries = ("val/val_annotations.txt", "val/images/") if self._listed else (f"{split}/",)
        require_layout(
            "Tiny ImageNet",
            root,
            ("wnids.txt", "words.txt", *entries),
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        )
        listed = read_text(root / "wnids.txt")
        self.wnids = sorted(re.findall(r"\bn\d+\b", listed) or listed.split())  # there may be words beside them
        words = dict(line.split("\t", 1) for line in read_lines(root / "words.txt") if "\t" in line)
        counts = Counter(words.get(wnid, wnid) for wnid in self.wnids)
        names = {wnid: words.get(wnid, wnid) for wnid in self.wnids}
        classes = tuple(f"{name} ({wnid})" if counts[name] > 1 else name for wnid, name in names.items())
        super().__init__(
            ann_file="",
            data_root=data_root,
            data_prefix="",
            metainfo={"classes": classes, **(metainfo or {})},
            **kwargs,
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return one dict a sample: ``img_path`` and ``gt_label``."""
        root = Path(self.data_root).expanduser()
        label_of = {wnid: label for label, wnid in enumerate(self.wnids)}
        read = self._from_list if self._listed else self._from_folders
        return read(root / self.split, label_of)

    @staticmethod
    def _from_folders(root: Path, label_of: dict[str, int]) -> list[dict[str, Any]]:
        samples: list[dict[str, Any]] = []
        folders = (path for path in root.iterdir() if path.is_dir() and path.name not in label_of)
        left = [image for path in sorted(folders) for image in (*_images(path), *_images(path / "images"))]
        for wnid, label in label_of.items():
            inner, outer = _images(root / wnid / "images"), _images(root / wnid)
            if not inner and not outer:
                raise FileNotFoundError(f"Tiny ImageNet: no image in {root.absolute() / wnid}: unpack anew")
            left += outer if inner else []
            samples += [{"img_path": str(image), "gt_label": label} for image in inner or outer]
        if left:
            warn(f"Tiny ImageNet: {len(left)} images below {root} are not read: {join_first(list(map(str, left)))}")
        return samples

    @staticmethod
    def _from_list(root: Path, label_of: dict[str, int]) -> list[dict[str, Any]]:
        annotations = root / "val_annotations.txt"
        samples = []
        for number, line in enumerate(read_lines(annotations), start=1):
            name, wnid = [*line.split(), ""][:2]
            if wnid not in label_of:
                raise ValueError(f"{annotations.absolute()}, line {number}: {wnid!r} is not among wnids.txt")
            samples.append({"img_path": str(root / "images" / name), "gt_label": label_of[wnid]})
        listed = {Path(str(sample["img_path"])).name for sample in samples}
        if unlisted := [path.name for path in _images(root / "images") if path.name not in listed]:
            warn(
                f"Tiny ImageNet: {len(unlisted)} images of {root / 'images'} have no line in {annotations.name} and "
                f"are left out: {join_first(unlisted)}"
            )
        return samples


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*") if is_image(path.name))
