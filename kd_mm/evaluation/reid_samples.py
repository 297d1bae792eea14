"""What one image gives to the evaluation of retrieval, read from data samples; and many images together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kd_mm.evaluation.reid_inputs import Ids

ROLES = ("query", "gallery")


class ImageFeature(NamedTuple):
    """One image.

    Attributes:
        feature: ``(D,)`` float32, or float64 where the network gives it.
        pid: Person id.
        camid: Camera id, or None.
        role: ``"query"`` or ``"gallery"``.
        number: Number in the data set, or None.
        path: Path of the image, or an empty string.
    """

    feature: NDArray[Any]
    pid: int
    camid: int | None
    role: str
    number: int | None
    path: str


@dataclass(frozen=True)
class Gallery:
    """Images of one role, in the order of the data set.

    Attributes:
        features: ``(N, D)``.
        pids: ``(N,)`` person ids.
        camids: ``(N,)`` camera ids, or None where the camera rule is off.
        paths: N paths, empty where a sample has none.
    """

    features: NDArray[Any]
    pids: Ids
    camids: Ids | None
    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.pids)


def read_samples(samples: Sequence[Mapping[str, Any]], camera_rule: bool) -> list[ImageFeature]:
    """Read a batch; nothing else of it is kept, and the device is read once.

    Args:
        samples: Data samples as dicts, with ``feature``, ``pid``, ``role``, ``camid`` if there is a camera rule, and
            ``sample_idx`` and ``img_path`` where the pipeline packs them.
        camera_rule: Whether ``camid`` is needed.

    Raises:
        ValueError: Something is missing, or a role is unknown.
    """
    if not samples:
        return []
    labels = [_labels(sample, camera_rule) for sample in samples]
    shapes = {tuple(sample["feature"].shape) for sample in samples}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1:
        raise ValueError(f"features have the shapes {sorted(shapes)}: every image needs one vector of the same length")
    features = torch.stack([torch.as_tensor(sample["feature"]).detach() for sample in samples])
    features = features if features.dtype == torch.float64 else features.float()
    return [ImageFeature(row, *label) for row, label in zip(features.cpu().numpy(), labels, strict=True)]


def _labels(sample: Mapping[str, Any], camera_rule: bool) -> tuple[int, int | None, str, int | None, str]:
    path = str(sample.get("img_path") or "")
    name = f"image {path or sample.get('sample_idx', '')}".rstrip()
    if sample.get("feature") is None:
        raise ValueError(f"{name}: no feature in the data sample: give the model a kd_mm.BNNeckHead, which predicts it")
    needed = ("pid", "role", "camid") if camera_rule else ("pid", "role")
    for key in needed:
        if sample.get(key) is None:
            hint = "; camera_rule=False measures without cameras" if key == "camid" else ""
            raise ValueError(
                f"{name}: no {key} in the data sample: add {key!r} to meta_keys of PackInputs in test_pipeline{hint}"
            )
    if sample["role"] not in ROLES:
        raise ValueError(f"{name}: role={sample['role']!r}: write 'query' or 'gallery'")
    number = sample.get("sample_idx")
    camid = int(sample["camid"]) if camera_rule else None
    return int(sample["pid"]), camid, str(sample["role"]), None if number is None else int(number), path


def without_copies(images: Sequence[ImageFeature]) -> list[ImageFeature]:
    """Return each image once, in the order of the data set; those without a number in the order given.

    Several processes get equal shares of a data set, for which some images are handed out twice.

    Raises:
        ValueError: Two different images have one number.
    """
    if any(image.number is None for image in images):
        return list(images)
    once: dict[tuple[str, int | None], ImageFeature] = {}
    for image in images:
        first = once.setdefault((image.role, image.number), image)
        if (first.pid, first.camid, first.path) != (image.pid, image.camid, image.path):
            names = " and ".join(one.path or f"one of person {one.pid}" for one in (first, image))
            raise ValueError(f"two {image.role} images have sample_idx={image.number} ({names}): number them apart")
    return [once[key] for key in sorted(once)]


def gather(images: Iterable[ImageFeature], role: str) -> Gallery:
    """Return the images of a role together.

    Raises:
        ValueError: There are none, or their features have different lengths.
    """
    chosen = [image for image in images if image.role == role]
    if not chosen:
        raise ValueError(f"no image of role {role!r} was evaluated: the test data set needs queries and a gallery")
    lengths = {len(image.feature) for image in chosen}
    if len(lengths) > 1:
        raise ValueError(f"features of the {role} have the lengths {sorted(lengths)}: all must be the same")
    cameras = [image.camid for image in chosen if image.camid is not None]
    return Gallery(
        np.stack([image.feature for image in chosen]),
        np.array([image.pid for image in chosen], dtype=np.int64),
        np.array(cameras, dtype=np.int64) if len(cameras) == len(chosen) else None,
        [image.path for image in chosen],
    )
