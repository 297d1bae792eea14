"""Average precision of detections as VOC2007, VOC2010 to 2012 and COCO define it, from one matching of boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_mm.evaluation.box_matching import (
    COCO_DETECTIONS,
    COCO_IOUS,
    Bools,
    BoxPairs,
    Floats,
    Ints,
    compare_boxes,
    match_coco,
    match_voc,
)

#: Recalls of VOC2007. Not the nearest numbers to 0.3, 0.6 and 0.7, but those that implementations share.
VOC_RECALLS = np.arange(0, 1 + 1e-3, 0.1)
#: Recalls of COCO, made as pycocotools makes them.
COCO_RECALLS = np.linspace(0.0, 1.0, 101)
#: Smallest and largest areas of objects in square pixels: all, small, medium, large.
COCO_AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))


@dataclass(frozen=True)
class DetectionAP:
    """Average precision and recall of K classes in [0, 1], unrounded; NaN where a class has no object to find.

    Attributes:
        voc07: 11-point interpolated average precision (VOC2007), ``(K,)``.
        voc12: Area under the monotonous precision-recall curve (VOC2010 to 2012), ``(K,)``.
        curves: Recall and precision of each class along descending scores at the VOC threshold, without detections of
            ignored objects.
        objects: Objects to find, ``(K,)``.
        ignored: Ignored objects, ``(K,)``.
        detections: Detections, ``(K,)``.
        found: True positives at the VOC threshold, ``(K,)``.
        coco: COCO average precision by area (all, small, medium, large) and IoU (0.50, 0.55 ... 0.95), ``(K, 4, 10)``.
        recall: COCO's highest recall, likewise, ``(K, 4, 10)``.
        recall_few: The same of all areas with at most 1 and 10 detections of an image and class, ``(K, 2, 10)``.
    """

    voc07: Floats
    voc12: Floats
    curves: list[tuple[Floats, Floats]]
    objects: Ints
    ignored: Ints
    detections: Ints
    found: Ints
    coco: Floats
    recall: Floats
    recall_few: Floats

    def coco_summary(self) -> dict[str, float]:
        """Return the twelve numbers of COCO: means over the classes that have objects to find, NaN without any."""
        return {
            "mAP": nan_mean(self.coco[:, 0]),
            "AP50": nan_mean(self.coco[:, 0, 0]),
            "AP75": nan_mean(self.coco[:, 0, 5]),
            "AP_small": nan_mean(self.coco[:, 1]),
            "AP_medium": nan_mean(self.coco[:, 2]),
            "AP_large": nan_mean(self.coco[:, 3]),
            "AR@1": nan_mean(self.recall_few[:, 0]),
            "AR@10": nan_mean(self.recall_few[:, 1]),
            "AR@100": nan_mean(self.recall[:, 0]),
            "AR_small": nan_mean(self.recall[:, 1]),
            "AR_medium": nan_mean(self.recall[:, 2]),
            "AR_large": nan_mean(self.recall[:, 3]),
        }


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
    boxes = compare_boxes(detections, objects, num_classes, inclusive, min(iou, COCO_IOUS[0]))
    hits, neutral = match_voc(boxes, iou)
    classes = range(num_classes)
    wanted = np.bincount(boxes.object_labels[~boxes.ignored], minlength=num_classes)
    voc = np.full((num_classes, 2), np.nan)
    curves, found = [], np.zeros(num_classes, dtype=np.int64)
    for label in classes:
        order = boxes.by_score[boxes.starts[label] : boxes.starts[label + 1]]
        order = order[~neutral[order]]
        true = np.cumsum(hits[order])
        curves.append((true / max(wanted[label], 1), true / np.arange(1, len(order) + 1)))
        found[label] = hits[order].sum()
        if wanted[label]:
            voc[label] = _voc_average(np.flatnonzero(hits[order]) + 1, wanted[label])
    return DetectionAP(
        voc07=voc[:, 0],
        voc12=voc[:, 1],
        curves=curves,
        objects=wanted,
        ignored=np.bincount(boxes.object_labels[boxes.ignored], minlength=num_classes),
        detections=np.diff(boxes.starts),
        found=found,
        **_measure_coco(boxes, num_classes),
    )


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


def _measure_coco(boxes: BoxPairs, num_classes: int) -> dict[str, Any]:
    low, high = np.array(COCO_AREAS).T[:, :, None]
    unwanted = (boxes.ignored | (boxes.object_areas < low) | (boxes.object_areas > high)).T
    objects = np.stack(
        [np.bincount(boxes.object_labels[~column], minlength=num_classes) for column in unwanted.T], axis=1
    )
    detections, hits, neutral = match_coco(boxes, unwanted)
    inside = (boxes.areas >= low) & (boxes.areas <= high)
    # Of each area, the detections up to each position in the order of the scores that are false unless matched.
    unmatched = np.cumsum((inside & (boxes.ranks < COCO_DETECTIONS[-1]))[:, boxes.by_score], axis=1)
    unmatched = np.concatenate([np.zeros((len(inside), 1), dtype=np.int64), unmatched], axis=1)
    positions = np.empty(len(boxes.by_score), dtype=np.int64)
    positions[boxes.by_score] = np.arange(len(positions))
    position = positions[detections]
    order = np.argsort(position)
    bounds = np.searchsorted(position[order], boxes.starts)
    ap = np.full((num_classes, len(COCO_AREAS), len(COCO_IOUS)), np.nan)
    recall, few = ap.copy(), np.full((num_classes, 2, len(COCO_IOUS)), np.nan)
    for label in np.flatnonzero(objects[:, 0]):
        rows = order[bounds[label] : bounds[label + 1]]
        matched = (hits[rows] | neutral[rows]) & inside[:, detections[rows]].T[:, :, None]
        before = unmatched[:, position[rows] + 1] - unmatched[:, boxes.starts[label], None]
        false = before.T[:, :, None] - np.cumsum(matched, axis=0)
        ap[label], recall[label] = _coco_average(hits[rows], false, objects[label])
        ranks = boxes.ranks[detections[rows]]
        few[label] = [hits[rows][ranks < most, 0].sum(axis=0) / objects[label, 0] for most in COCO_DETECTIONS[:-1]]
    return {"coco": ap, "recall": recall, "recall_few": few}


def _coco_average(hits: Bools, false: Ints, objects: Ints) -> tuple[Floats, Floats]:
    """Return average precision and highest recall ``(A, T)`` of a class.

    Args:
        hits: True positives in the order of the scores, ``(C, A, T)``.
        false: False positives up to there, ``(C, A, T)``. Precision peaks at true positives, so that detections that
            match nothing need no row.
        objects: Objects to find, ``(A,)``.
    """
    rows, areas, thresholds = hits.shape
    true, found = np.cumsum(hits, axis=0), hits.sum(axis=0)
    precision = true / (false + true + np.spacing(1))
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1].reshape(rows, areas * thresholds).T
    peaks = np.append(best[np.nonzero(hits.reshape(rows, areas * thresholds).T)], 0.0)
    starts = (np.cumsum(found.ravel()) - found.ravel()).reshape(areas, thresholds, 1)
    ap, recall = np.full((areas, thresholds), np.nan), np.full((areas, thresholds), np.nan)
    for area in np.flatnonzero(objects):
        at = np.searchsorted(np.arange(1, objects[area] + 1) / objects[area], COCO_RECALLS, side="left")
        index = np.where(at < found[area][:, None], starts[area] + at, len(peaks) - 1)
        ap[area], recall[area] = peaks[index].mean(axis=1), found[area] / objects[area]
    return ap, recall
