"""Write small folders in the layout of Pascal VOC, and read them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

from kd_mm.datasets import VOCDataset

CAT, DOG = ("cat", (11, 6, 30, 40)), ("dog", (1, 1, 64, 48))
PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations", "with_bbox": True},
    {"type": "Resize", "scale": (128, 96), "keep_ratio": True},
    {"type": "PackDetInputs"},
]
COLORS = {"square": (220, 40, 40), "disc": (40, 60, 220), "bar": (40, 200, 60)}


def xml(objects: Iterable[tuple[str, Sequence[float | str]]], size: str | None = None, extra: str = "") -> str:
    """An annotation; ``size`` is the content of <size>, default 64 x 48, empty to leave it out."""
    if size is None:
        size = "<width>64</width><height>48</height><depth>3</depth>"
    listed = "".join(
        f"<object><name>{name}</name>{extra}<bndbox>"
        + "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        + "</bndbox></object>"
        for name, box in objects
    )
    return f"<annotation>{f'<size>{size}</size>' if size else ''}{listed}</annotation>"


class VOCFolder:
    """A folder with ``Annotations``, ``JPEGImages`` and lists in ``ImageSets/Main``."""

    def __init__(self, root: Path, year: str = "VOC2007") -> None:
        self.root, self.year, self.folder = root, year, root / year
        for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)

    def image(self, name: str, width: int = 64, height: int = 48, suffix: str = ".jpg", **options: object) -> Path:
        path = self.folder / "JPEGImages" / f"{name}{suffix}"
        pixels = np.random.RandomState(sum(map(ord, name))).randint(60, 180, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(path, **options)
        return path

    def annotate(self, name: str, text: str) -> Path:
        path = self.folder / "Annotations" / f"{name}.xml"
        path.write_text(text)
        return path

    def add(self, name: str, *objects: tuple[str, Sequence[float | str]], **options: str) -> None:
        self.image(name)
        self.annotate(name, xml(objects, **options))

    def split(self, name: str, images: Iterable[str]) -> Path:
        path = self.folder / "ImageSets" / "Main" / f"{name}.txt"
        path.write_text("".join(f"{image}\n" for image in images))
        return path

    def options(self, split: str = "train") -> dict[str, object]:
        """Arguments of the data set that reads this folder."""
        return {
            "data_root": str(self.root),
            "ann_file": f"{self.year}/ImageSets/Main/{split}.txt",
            "data_prefix": {"sub_data_root": f"{self.year}/"},
        }


def draw_shapes(folder: VOCFolder, split: str, count: int, seed: int) -> None:
    """Add images of 64 x 64 pixels, each with one or two shapes of a colour of their own, and a list of them."""
    rng = np.random.RandomState(seed)
    names = []
    for number in range(count):
        image = rng.randint(90, 160, (64, 64, 3)).astype(np.uint8)
        objects = []
        for left in rng.permutation([2, 34])[: rng.randint(1, 3)]:
            name = list(COLORS)[rng.randint(len(COLORS))]
            side, top = rng.randint(18, 28), rng.randint(2, 34)
            image[top : top + side, left : left + side] = COLORS[name]
            objects.append((name, (left + 1, top + 1, left + side, top + side)))
        names.append(f"{split}{number:03d}")
        Image.fromarray(image).save(folder.folder / "JPEGImages" / f"{names[-1]}.jpg", quality=95)
        folder.annotate(names[-1], xml(objects, "<width>64</width><height>64</height>"))
    folder.split(split, names)


def read(voc: VOCFolder, split: str = "train", **options: Any) -> VOCDataset:
    with DefaultScope.overwrite_default_scope("mmdet"):
        return VOCDataset(**{**voc.options(split), **options})


def read_error(voc: VOCFolder, **options: Any) -> str:
    """Return the one-line error that building the data set raises."""
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read(voc, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
