"""What one image gives to the evaluation of a detector, read from mmdet's data samples."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class ImageBoxes(NamedTuple):
    """Boxes of one image.

    Attributes:
        name: Path of the image, or its id where the sample has no path.
        detections: ``(n, 6)``: x1, y1, x2, y2 in pixels, score, class.
        objects: ``(m, 6)``: x1, y1, x2, y2 in pixels, class, and 1 for one that is ignored, else 0.
    """

    name: str
    detections: NDArray[Any]
    objects: NDArray[Any]


def read_sample(sample: Mapping[str, Any], classes: Sequence[str]) -> ImageBoxes:
    """Read the predictions and the annotations of a data sample; nothing else of it is kept or copied.

    Args:
        sample: A ``DetDataSample`` as a dict. Its objects stand in ``gt_instances`` and ``ignored_instances``, as
            ``PackDetInputs`` puts them there, or in ``instances`` with ``ignore_flag``.
        classes: The class list of the data set.

    Raises:
        ValueError: No predictions, no annotations, a box or score that is no number, or a class outside of the list.
    """
    name = str(sample.get("img_path") or sample.get("img_id") or "")
    detections, objects = _detections(sample, name), _objects(sample, name)
    for what, rows, column in (("predicted", detections, 5), ("annotated", objects, 4)):
        if not np.isfinite(rows).all():
            row = rows[~np.isfinite(rows).all(axis=1)][0]
            raise ValueError(f"image {name}: a {what} box is not finite: {row[:5].tolist()}; has the model diverged?")
        outside = rows[(rows[:, column] < 0) | (rows[:, column] >= len(classes)), column]
        if outside.size:
            raise ValueError(
                f"image {name}: {what} class {int(outside[0])}, but the data set has the classes 0 to "
                f"{len(classes) - 1} ({_listed(classes)}): set num_classes={len(classes)} in the model's heads, "
                "or metainfo=dict(classes=...) in the data set to the list that the model was trained with"
            )
    return ImageBoxes(name, detections, objects)


def image_name(boxes: ImageBoxes, index: int) -> str:
    """Return the name of an image, or its place in the data set where it has none."""
    return boxes.name or f"number {index}"


def voc_years(names: Sequence[str]) -> dict[str, int]:
    """Return the images of each year's folder (``VOC2007``) that the paths run through."""
    years: dict[str, int] = {}
    for name in names:
        found = re.search(r"(?:^|[/\\])(VOC\d{4})[/\\]", name)
        if found:
            years[found[1]] = years.get(found[1], 0) + 1
    return dict(sorted(years.items()))


def _listed(classes: Sequence[str], most: int = 5) -> str:
    return ", ".join(classes[:most]) + (", ..." if len(classes) > most else "")


def _detections(sample: Mapping[str, Any], name: str) -> NDArray[Any]:
    found = sample.get("pred_instances")
    if found is None or "bboxes" not in found:
        raise ValueError(f"image {name}: no pred_instances.bboxes in the sample: the model is no detector")
    return _rows(found["bboxes"], found["scores"], found["labels"])


def _objects(sample: Mapping[str, Any], name: str) -> NDArray[Any]:
    given = sample.get("gt_instances")
    if given is not None and "bboxes" in given:
        parts = [_rows(given["bboxes"], given["labels"], torch.zeros(len(given["labels"])))]
        ignored = sample.get("ignored_instances")
        if ignored is not None and "bboxes" in ignored:
            parts.append(_rows(ignored["bboxes"], ignored["labels"], torch.ones(len(ignored["labels"]))))
        return np.concatenate(parts)
    if sample.get("instances") is None:
        raise ValueError(
            f"image {name}: the sample has no annotations: add dict(type='LoadAnnotations', with_bbox=True) after the "
            "resizing in test_pipeline"
        )
    rows = [[*box["bbox"], box["bbox_label"], box.get("ignore_flag", 0)] for box in sample["instances"]]
    return np.array(rows, dtype=np.float64).reshape(-1, 6)


def _rows(boxes: Any, *columns: Tensor) -> NDArray[Any]:
    """Return boxes and columns side by side, ``(n, 4 + columns)``, read from the device in one piece."""
    boxes = getattr(boxes, "tensor", boxes).detach().reshape(-1, 4)
    dtype = boxes.dtype if boxes.dtype == torch.float64 else torch.float32
    parts = [boxes.to(dtype), *(column.detach().to(boxes.device, dtype)[:, None] for column in columns)]
    return torch.cat(parts, dim=1).cpu().numpy()
