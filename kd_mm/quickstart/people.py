"""A small re-identification set without a download: drawn people in the layout of Market-1501. It is synthetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kd_mm.datasets.market1501 import DISTRACTOR, FOLDERS, JUNK, Market1501
from kd_mm.quickstart.generated import write_once
from kd_mm.quickstart.people_drawing import SIZE, Camera, Person, render_image
from kd_mm.registry import DATASETS

#: Identities by split; nobody is in two splits.
IDENTITIES = {"train": 80, "val": 30, "test": 60}
CAMERAS = 6
#: Share of the cameras that see a person, beyond two that always do.
_SEEN = 0.6
#: Distractors and junk detections of a gallery, as a share of its other images.
_DISTRACTORS, _JUNK = 0.3, 0.08
#: Changes whenever the same arguments would draw other people.
_EDITION = 1
_NOTE, _VALIDATION = "people.json", "validation"


@DATASETS.register_module()
class People(Market1501):
    """Drawn people in the layout of Market-1501, written at the first use and read as any folder in that layout.

    Synthetic: good for trying out, not for judging which method is best on photographs. A person has the same clothes,
    build and bag in all images; a camera has its light, viewpoint, floor and sharpness; pose, position, cover and noise
    vary by image.
    The validation split is a folder of its own, ``<data_root>/validation``, with people of whom none is in training or
    test.

    Args:
        data_root: The folder; it is written unless it is there.
        split: ``"train"``, ``"val"`` (queries and gallery), ``"test"`` (likewise), ``"query"`` or ``"gallery"``.
        seed: Seed of people, cameras and images.
        identities: People by split, default :data:`IDENTITIES`.
        **kwargs: As for :class:`kd_mm.Market1501` (``pipeline``, ``test_mode`` ...).

    Raises:
        ValueError: ``data_root`` holds other data, or see :class:`kd_mm.Market1501`.
    """

    def __init__(
        self,
        data_root: str = "data/people",
        split: str = "train",
        seed: int = 0,
        identities: Mapping[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        root = write_people(Path(data_root), seed, identities or IDENTITIES)
        if split == "val":
            root, split = root / _VALIDATION, "test"
        super().__init__(str(root), split, expected_counts=None, **kwargs)


def write_people(folder: Path, seed: int = 0, identities: Mapping[str, int] = IDENTITIES) -> Path:
    """Write ``bounding_box_train``, ``query``, ``bounding_box_test`` and ``validation``, atomically.

    The same arguments always give the same images. An existing folder stays; several processes may ask at once.

    Args:
        folder: The folder.
        seed: Seed of people, cameras and images.
        identities: People in ``"train"``, ``"val"`` and ``"test"``.

    Returns:
        The folder.

    Raises:
        ValueError: It exists and was not written by this function with these arguments.
        OSError: It could not be written.
    """
    made_by = {"edition": _EDITION, "seed": seed, "identities": dict(identities), "size": SIZE}
    return write_once(folder, _NOTE, made_by, "these people", lambda part: _fill(part, seed, identities))


def _fill(root: Path, seed: int, identities: Mapping[str, int]) -> None:
    cameras = [Camera(np.random.default_rng([seed, 0, number]), number) for number in range(CAMERAS)]
    first = 1
    for number, split in enumerate(("train", "val", "test")):
        home = root / _VALIDATION if split == "val" else root
        parts = ("train",) if split == "train" else ("query", "gallery")
        folders = {part: _Folder(home / FOLDERS[part], cameras) for part in parts}
        last = first + identities[split]
        for pid in range(first, last):
            _write_person(np.random.default_rng([seed, 1, pid]), pid, folders)
        first = last
        if split != "train":
            _write_others(np.random.default_rng([seed, 2, number]), folders["gallery"])


def _write_person(rng: np.random.Generator, pid: int, folders: Mapping[str, _Folder]) -> None:
    """Write a person's images: one to three from each camera that sees them, of which the first is a query."""
    person = Person(rng)
    always = rng.permutation(CAMERAS)[:2]
    for camera in range(CAMERAS):
        if camera not in always and rng.random() >= _SEEN:
            continue
        if "query" in folders:
            folders["query"].write(rng, person, pid, camera)
        folder, most = (folders["gallery"], 2) if "query" in folders else (folders["train"], 3)
        for _ in range(int(rng.integers(1, most + 1))):
            folder.write(rng, person, pid, camera)


def _write_others(rng: np.random.Generator, gallery: _Folder) -> None:
    """Write distractors, strangers or nobody, and junk, people that the detector has missed by far."""
    images = gallery.count
    for _ in range(round(_DISTRACTORS * images)):
        person = Person(rng) if rng.random() < 0.8 else None
        gallery.write(rng, person, DISTRACTOR, int(rng.integers(CAMERAS)))
    for _ in range(round(_JUNK * images)):
        gallery.write(rng, Person(rng), JUNK, int(rng.integers(CAMERAS)), shift=0.45)


class _Folder:
    """Writes images under the names of Market-1501."""

    def __init__(self, path: Path, cameras: Sequence[Camera]) -> None:
        path.mkdir(parents=True)
        self.path, self.cameras, self.count = path, cameras, 0

    def write(self, rng: np.random.Generator, person: Person | None, pid: int, camera: int, shift: float = 0.0) -> None:
        picture = render_image(rng, self.cameras[camera], person, shift)
        self.count += 1
        number = f"{pid:04d}" if pid >= 0 else str(pid)
        name = f"{number}_c{camera + 1}s1_{self.count:06d}_01.jpg"
        Image.fromarray(picture).save(self.path / name, quality=92)
