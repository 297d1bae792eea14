"""Boxes as COCO's JSON files, for pycocotools and other tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kd_mm.engine.atomic_files import replace_file
from kd_mm.evaluation.detection_samples import ImageBoxes


def write_coco_json(images: Sequence[ImageBoxes], classes: Sequence[str], prefix: str) -> tuple[str, str]:
    """Write ``<prefix>.gt.json`` and ``<prefix>.bbox.json``, with full precision.

    pycocotools measures on these files what :func:`kd_mm.evaluation.coco_average_precision` says. Images are numbered
    from 1 in the order of the data set, categories from 1 in the order of the class list; ignored objects have
    ``iscrowd`` 1; ``area`` is that of the box.

    Args:
        images: Boxes of each image.
        classes: Class names.
        prefix: Path without its ending.

    Returns:
        The paths of the ground truth and of the detections.
    """
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        for x1, y1, x2, y2, label, ignored in image.objects.astype(float).tolist():
            place = {"id": len(annotations) + 1, "image_id": number, "category_id": int(label) + 1}
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            annotations.append({**place, **box, "iscrowd": int(ignored)})
        for x1, y1, x2, y2, score, label in image.detections.astype(float).tolist():
            place = {"image_id": number, "category_id": int(label) + 1}
            detections.append({**place, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
    truth = {
        "images": [{"id": number, "file_name": image.name} for number, image in enumerate(images, 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
        "annotations": annotations,
    }
    paths = f"{prefix}.gt.json", f"{prefix}.bbox.json"
    for path, content in zip(paths, (truth, detections), strict=True):
        replace_file(path, (json.dumps(content) + "\n").encode())
    return paths
