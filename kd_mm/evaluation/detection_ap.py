"""Average precision of detections as VOC2007, VOC2010 to 2012 and COCO define it."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: Recalls of VOC2007. Not the nearest numbers to 0.3, 0.6 and 0.7, but those that implementations share.
VOC_RECALLS = np.arange(0, 1 + 1e-3, 0.1)
#: What pycocotools summarises, in its order.
COCO_NUMBERS = (
    *("mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR@1", "AR@10", "AR@100", "AR_small", "AR_medium", "AR_large"),
)


@dataclass(frozen=True)
class DetectionAP:
    """Average precision and recall of K classes in [0, 1], unrounded; NaN where a class has no object to find.

    Attributes:
        voc07: 11-point interpolated average precision (VOC2007), ``(K,)``.
        voc12: Area under the monotonous precision-recall curve (VOC2010 to 2012), ``(K,)``.
        objects: Objects to find, ``(K,)``.
        ignored: Ignored objects, ``(K,)``.
        detections: Detections, ``(K,)``.
        found: True positives at the VOC threshold, ``(K,)``.
        coco: COCO average precision by area (all, small, medium, large) and IoU (0.50, 0.55 ... 0.95), ``(K, 4, 10)``.
        coco_summary: The twelve numbers of COCO by :data:`COCO_NUMBERS`: means over the classes that have objects to
            find, NaN without any.
    """

    voc07: Floats
    voc12: Floats
    objects: Ints
    ignored: Ints
    detections: Ints
    found: Ints
    coco: Floats
    coco_summary: dict[str, float]


def nan_mean(values: Floats) -> float:
    """Return the mean of what is not NaN, NaN without any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def detection_ap(
    detections: Sequence[NDArray[Any]],
    objects: Sequence[NDArray[Any]],
    num_classes: int,
    iou: float = 0.5,
    inclusive: bool = True,
) -> DetectionAP:
    """Measure VOC and COCO average precision.

    VOC follows the development kit (``VOCevaldet.m``, http://host.robots.ox.ac.uk/pascal/VOC) and mmdet's
    ``VOCMetric``; of equally near objects the first counts, objects to find before ignored ones. COCO gives what
    ``pycocotools.cocoeval.COCOeval`` gives for the same boxes with ``iscrowd=1`` for ignored objects. Of equal scores,
    the earlier image and the earlier detection come first.

    Args:
        detections: For each image an array ``(n, 6)``: x1, y1, x2, y2 in pixels, score, class.
        objects: For each image an array ``(m, 6)``: x1, y1, x2, y2 in pixels, class, and 1 for an object that is
            ignored (VOC's difficult ones), else 0.
        num_classes: K; classes are numbered from 0 to K - 1.
        iou: VOC's threshold, inclusive.
        inclusive: Widths and heights of VOC are ``x2 - x1 + 1``, as in the development kit and in mmdet's
            ``VOCMetric``. COCO's are ``x2 - x1``.

    Raises:
        ValueError: The numbers of images differ, or a class is out of range.
    """
    if len(detections) != len(objects):
        raise ValueError(f"detections of {len(detections)} images, objects of {len(objects)}: give both of each image")
    found = np.concatenate([np.empty((0, 6)), *detections])
    wanted = np.concatenate([np.empty((0, 6)), *objects])
    for what, labels in (("detections", found[:, 5]), ("objects", wanted[:, 4])):
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            raise ValueError(f"{what} of class {labels.min():g} to {labels.max():g}, but num_classes={num_classes}")
    matches = [_match_voc(*boxes, iou, inclusive) for boxes in zip(detections, objects, strict=True)]
    hits, neutral = np.concatenate([np.empty((0, 2), dtype=bool), *matches]).T
    ignored = wanted[:, 5] != 0
    counts = [
        np.bincount(labels.astype(np.int64), minlength=num_classes)
        for labels in (wanted[~ignored, 4], wanted[ignored, 4], found[:, 5], found[hits, 5])
    ]
    voc = np.full((num_classes, 2), np.nan)
    for label in np.flatnonzero(counts[0]):
        rows = np.flatnonzero((found[:, 5] == label) & ~neutral)
        rows = rows[np.argsort(-found[rows, 4], kind="stable")]
        voc[label] = _voc_average(np.flatnonzero(hits[rows]) + 1, counts[0][label])
    coco, summary = _measure_coco(detections, objects, num_classes)
    return DetectionAP(
        voc07=voc[:, 0],
        voc12=voc[:, 1],
        objects=counts[0],
        ignored=counts[1],
        detections=counts[2],
        found=counts[3],
        coco=coco,
        coco_summary=summary,
    )


def _match_voc(detections: NDArray[Any], objects: NDArray[Any], iou: float, inclusive: bool) -> Bools:
    """Return ``(n, 2)``: which detections of an image are true positives, and which lie on ignored objects."""
    matched = np.zeros((len(detections), 2), dtype=bool)
    pixel = np.array([0, 0, 1, 1]) if inclusive else 0
    for label in np.unique(objects[:, 4]):
        rows = np.flatnonzero(detections[:, 5] == label)
        if not len(rows):
            continue
        rows = rows[np.argsort(-detections[rows, 4], kind="stable")]
        wanted = objects[objects[:, 4] == label]
        wanted = wanted[np.argsort(wanted[:, 5] != 0, kind="stable")]
        corners = (torch.from_numpy(boxes[:, :4].astype(np.float64) + pixel) for boxes in (detections[rows], wanted))
        overlaps = box_iou(*corners).nan_to_num().numpy()  # NaN: neither box has an area
        near, best = overlaps.max(axis=1) >= iou, overlaps.argmax(axis=1)
        ignored = wanted[best, 5] != 0
        matched[rows, 1] = near & ignored
        rows, best = rows[near & ~ignored], best[near & ~ignored]
        matched[rows[np.unique(best, return_index=True)[1]], 0] = True
    return matched


def _voc_average(counted: Ints, objects: int) -> tuple[float, float]:
    """Return 11-point and area average precision of a class.

    Args:
        counted: Detections up to each true positive, ``(n,)``. Precision peaks nowhere else.
        objects: Objects to find, at least one.
    """
    true = np.arange(1, len(counted) + 1)
    best = np.maximum.accumulate((true / counted)[::-1])[::-1]
    at = np.searchsorted(true / objects, VOC_RECALLS, side="left")
    return float(np.append(best, 0.0)[at].sum() / len(VOC_RECALLS)), float(best.sum() / objects)


def _measure_coco(
    detections: Sequence[NDArray[Any]], objects: Sequence[NDArray[Any]], num_classes: int
) -> tuple[Floats, dict[str, float]]:
    """Return average precision ``(K, 4, 10)`` and the summary as pycocotools computes them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    listed = {
        "images": [{"id": image} for image in range(len(objects))],
        "categories": [{"id": label} for label in range(num_classes)],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it is doing
        truth, found = COCO(), COCO()
        truth.dataset = {**listed, "annotations": _annotations(objects, {"category_id": 4, "iscrowd": 5})}
        found.dataset = {**listed, "annotations": _annotations(detections, {"category_id": 5, "score": 4})}
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # (IoU, recall, class, area, most detections of an image), -1 for a class without objects
    precision = evaluation.eval["precision"][..., -1].mean(axis=1).transpose(1, 2, 0)
    numbers = np.where(evaluation.stats < 0, np.nan, evaluation.stats).tolist()
    return np.where(precision < 0, np.nan, precision), dict(zip(COCO_NUMBERS, numbers, strict=True))


def _annotations(images: Sequence[NDArray[Any]], columns: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return boxes ``(n, 6)`` of each image in COCO's format, with further columns by their keys."""
    rows = [(image, row) for image, boxes in enumerate(images) for row in boxes.astype(np.float64).tolist()]
    annotations = []
    for number, (image, row) in enumerate(rows, 1):  # pycocotools reads a match with number 0 as none
        width, height = row[2] - row[0], row[3] - row[1]
        box = {"bbox": [row[0], row[1], width, height], "area": width * height}
        others = {key: row[column] for key, column in columns.items()}
        annotations.append({"id": number, "image_id": image, **box, **others})
    return annotations
