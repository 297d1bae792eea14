"""A small detection set without a download: scikit-learn's real digits composed to scenes, as a VOC folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import mmcv
import numpy as np

from kd_mm.datasets.voc import VOCDataset
from kd_mm.quickstart.digits import Digits
from kd_mm.quickstart.generated import write_once
from kd_mm.quickstart.scenes import SceneObject, draw_scene
from kd_mm.registry import DATASETS
from kd_mm.utils.suggest import choice

#: Scenes by split. The digits of a split occur in no other.
COUNTS = {"train": 400, "val": 60, "test": 200}
#: Height and width of a scene in pixels.
SIZE = (96, 128)
#: Changes whenever the same arguments would draw other scenes.
_EDITION = 2
_NOTE = "scenes.json"
_ANNOTATION = """<annotation>
  <folder>VOC2007</folder>
  <filename>{name}.jpg</filename>
  <size><height>{height}</height><width>{width}</width><depth>3</depth></size>
  <segmented>0</segmented>{objects}
</annotation>
"""
_OBJECT = """
  <object>
    <name>{item.name}</name>
    <pose>Unspecified</pose>
    <truncated>{item.truncated:d}</truncated>
    <occluded>{item.occluded:d}</occluded>
    <difficult>{item.difficult:d}</difficult>
    <bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox>
  </object>"""


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
        choice("DigitScenes: split", split, counts)
        write_digit_scenes(Path(data_root), seed, counts)
        super().__init__(
            data_root=data_root,
            ann_file=f"VOC2007/ImageSets/Main/{split}.txt",
            data_prefix={"sub_data_root": "VOC2007/"},
            **kwargs,
        )


def write_digit_scenes(devkit: Path, seed: int = 0, counts: Mapping[str, int] = COUNTS) -> Path:
    """Write ``<devkit>/VOC2007`` with ``JPEGImages``, ``Annotations`` and ``ImageSets/Main``, atomically.

    The same arguments always give the same scenes. Existing ones stay; several processes may ask at once.

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
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (part / name).mkdir(parents=True)
    for index, (split, count) in enumerate(counts.items()):
        samples = list(Digits(split, size=8))
        digits, labels = [sample["img"][..., 0] for sample in samples], [sample["gt_label"] for sample in samples]
        names = [f"{split}_{number:05d}" for number in range(count)]
        for number, name in enumerate(names):
            image, objects = draw_scene(np.random.default_rng([seed, index, number]), digits, labels, SIZE)
            mmcv.imwrite(image, str(part / "JPEGImages" / f"{name}.jpg"))
            (part / "Annotations" / f"{name}.xml").write_text(_annotation(name, objects))
        (part / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def _annotation(name: str, objects: Sequence[SceneObject]) -> str:
    """Return the VOC annotation of a scene; coordinates count from 1 and include the last pixel, as VOC's do."""
    return _ANNOTATION.format(name=name, height=SIZE[0], width=SIZE[1], objects="".join(map(_object, objects)))


def _object(item: SceneObject) -> str:
    left, top, right, bottom = item.box
    return _OBJECT.format(item=item, left=left + 1, top=top + 1, right=right, bottom=bottom)
