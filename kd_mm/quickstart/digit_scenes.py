"""A small detection set without a download: scikit-learn's real digits composed to scenes, as a VOC folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import mmcv
import numpy as np

from kd_mm.datasets.voc import VOCDataset
from kd_mm.quickstart.digits import Digits
from kd_mm.quickstart.generated import write_once
from kd_mm.quickstart.scenes import Image, SceneObject, draw_scene
from kd_mm.registry import DATASETS

#: Scenes by split. The digits of a split occur in no other.
COUNTS = {"train": 400, "val": 60, "test": 200}
#: Height and width of a scene in pixels.
SIZE = (96, 128)
#: Changes whenever the same arguments would draw other scenes.
_EDITION = 2
_NOTE = "scenes.json"


@DATASETS.register_module()
class DigitScenes(VOCDataset):
    """Scenes of handwritten digits, written as a VOCdevkit at the first use and read as any VOC folder.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``.
        data_root: Folder of the devkit; ``VOC2007`` is written in it unless it is there.
        seed: Seed of the scenes.
        counts: Scenes by split, default :data:`COUNTS`.
        **kwargs: As for :class:`kd_mm.VOCDataset` (``pipeline``, ``test_mode`` ...).

    Raises:
        ValueError: An unknown split, or ``data_root`` holds another ``VOC2007``.
    """

    METAINFO: ClassVar[dict[str, Any]] = {
        "classes": tuple(str(digit) for digit in range(10)),
        "palette": [
            *((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0)),
            *((86, 180, 233), (240, 228, 66), (120, 94, 240), (100, 143, 255), (254, 97, 0)),
        ],
    }

    def __init__(
        self,
        split: str = "train",
        data_root: str = "data/digit_scenes",
        seed: int = 0,
        counts: Mapping[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        counts = counts or COUNTS
        if split not in counts:
            raise ValueError(f"DigitScenes: split must be one of {', '.join(counts)}, got {split!r}")
        write_digit_scenes(Path(data_root), seed, counts)
        super().__init__(
            data_root=data_root,
            ann_file=f"VOC2007/ImageSets/Main/{split}.txt",
            data_prefix={"sub_data_root": "VOC2007/"},
            **kwargs,
        )


def write_digit_scenes(devkit: Path, seed: int = 0, counts: Mapping[str, int] = COUNTS) -> Path:
    """Write ``<devkit>/VOC2007`` with ``JPEGImages``, ``Annotations`` and ``ImageSets/Main``, atomically.

    The same arguments always give the same scenes. Scenes that are there are kept; several processes may ask at once.

    Args:
        devkit: The folder that holds ``VOC2007``; it is made if missing.
        seed: Seed of the scenes.
        counts: Scenes by split, out of train, val and test.

    Returns:
        The folder ``VOC2007``.

    Raises:
        ValueError: ``VOC2007`` is there and was not written by this function with these arguments.
        OSError: The folder could not be written.
    """
    made_by = {"edition": _EDITION, "seed": seed, "counts": dict(counts), "size": SIZE}
    return write_once(devkit / "VOC2007", _NOTE, made_by, "these scenes", lambda part: _fill(part, seed, counts))


def _fill(part: Path, seed: int, counts: Mapping[str, int]) -> None:
    for index, (split, count) in enumerate(counts.items()):
        _write_split(part, split, [seed, index], count)


def _write_split(root: Path, split: str, seed: Sequence[int], count: int) -> None:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True, exist_ok=True)
    source = Digits(split, size=8)
    samples = [source[i] for i in range(len(source))]
    digits = [sample["img"][..., 0] for sample in samples]
    labels = [sample["gt_label"] for sample in samples]
    names = [f"{split}_{number:05d}" for number in range(count)]
    for number, name in enumerate(names):
        image, objects = draw_scene(np.random.default_rng([*seed, number]), digits, labels, SIZE)
        mmcv.imwrite(image, str(root / "JPEGImages" / f"{name}.jpg"))
        (root / "Annotations" / f"{name}.xml").write_bytes(annotation(name, image, objects))
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def annotation(name: str, image: Image, objects: Sequence[SceneObject]) -> bytes:
    """Return the VOC annotation of a scene; coordinates count from 1 and include the last pixel, as VOC's do."""
    root = ElementTree.Element("annotation")
    _add(root, {"folder": "VOC2007", "filename": f"{name}.jpg"})
    _add(root, {"size": dict(zip(("height", "width", "depth"), image.shape, strict=True)), "segmented": 0})
    for item in objects:
        left, top, right, bottom = item.box
        fields = {
            "name": item.name,
            "pose": "Unspecified",
            "truncated": int(item.truncated),
            "occluded": int(item.occluded),
            "difficult": int(item.difficult),
            "bndbox": {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom},
        }
        _add(root, {"object": fields})
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root))


def _add(parent: ElementTree.Element, fields: Mapping[str, Any]) -> None:
    for key, value in fields.items():
        child = ElementTree.SubElement(parent, key)
        if isinstance(value, Mapping):
            _add(child, value)
        else:
            child.text = str(value)
