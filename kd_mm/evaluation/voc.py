"""Average precision as the PASCAL VOC development kits measure it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_mm.evaluation.matches import Bools, Floats, Ints, MatchTable

#: Recalls of the 11-point measure. Not the nearest numbers to 0.3, 0.6 and 0.7, but those that implementations share.
ELEVEN_POINTS = np.arange(0, 1 + 1e-3, 0.1)


@dataclass(frozen=True)
class Curve:
    """Precision and recall of one class along descending scores, ignored detections left out.

    Attributes:
        recall: ``(n,)``.
        precision: ``(n,)``.
        scores: ``(n,)``.
    """

    recall: Floats
    precision: Floats
    scores: Floats


@dataclass(frozen=True)
class VocResult:
    """VOC average precision at one IoU threshold, all fractions in [0, 1], unrounded.

    Attributes:
        ap07: 11-point interpolated average precision of each class (VOC2007), ``(K,)``; NaN without objects to find.
        ap12: Area under the monotonous precision-recall curve of each class (VOC2010 to 2012), ``(K,)``; likewise.
        objects: Objects to find of each class; difficult ones do not count, ``(K,)``.
        detections: Detections of each class, ``(K,)``.
        found: True positives of each class, ``(K,)``.
        iou: The threshold.
        table: What it was measured on.
        hits: Detections that are true positives, ``(D,)``.
        neutral: Detections on difficult objects: neither true nor false, ``(D,)``.
    """

    ap07: Floats
    ap12: Floats
    objects: Ints
    detections: Ints
    found: Ints
    iou: float
    table: MatchTable
    hits: Bools
    neutral: Bools

    def curve(self, label: int) -> Curve:
        """Return the precision-recall curve of a class; without objects to find, recall is 0."""
        start, end = self.table.starts[label : label + 2]
        order = self.table.by_score[start:end]
        order = order[~self.neutral[order]]
        true = np.cumsum(self.hits[order])
        recall = true / max(int(self.objects[label]), 1)
        return Curve(recall, true / np.arange(1, len(order) + 1), self.table.scores[order])


def voc_average_precision(table: MatchTable, iou: float = 0.5) -> VocResult:
    """Measure both VOC average precisions from a match table.

    The rule of the development kit (``VOCevaldet.m``, http://host.robots.ox.ac.uk/pascal/VOC): a detection belongs to
    the object of its class that it overlaps most, the first of equals (objects that count before difficult ones, as in
    mmdet's ``VOCMetric``). Below the threshold it is a false positive. On a difficult object it is neither true nor
    false. Otherwise the detection with the highest score on an object is true and all others are false, even where they
    overlap a second object well. Of equal scores, the earlier image and the earlier detection come first.

    Args:
        table: The match table, made with ``min_iou`` no higher than ``iou``.
        iou: Overlap from which a detection may be right, inclusive.

    Raises:
        ValueError: The table leaves out pairs that ``iou`` asks for.
    """
    if iou < table.min_iou:
        raise ValueError(f"iou={iou}, but the match table was made with min_iou={table.min_iou}: make it with {iou}")
    hits, neutral = _hits(table, iou)
    objects = np.bincount(table.object_labels[~table.ignored], minlength=table.num_classes)
    order = table.by_score
    places, counted = np.flatnonzero(hits[order]), np.cumsum(~neutral[order])
    ap07, ap12 = np.full(table.num_classes, np.nan), np.full(table.num_classes, np.nan)
    bounds = np.searchsorted(places, table.starts)
    for label in np.flatnonzero(objects):
        mine, start = places[bounds[label] : bounds[label + 1]], table.starts[label]
        seen = counted[mine] - (counted[start - 1] if start else 0)
        ap07[label], ap12[label] = _average(seen, int(objects[label]))
    return VocResult(
        ap07, ap12, objects, np.diff(table.starts), np.diff(bounds), iou, table, hits=hits, neutral=neutral
    )


def _hits(table: MatchTable, iou: float) -> tuple[Bools, Bools]:
    hits, neutral = np.zeros(len(table.scores), dtype=bool), np.zeros(len(table.scores), dtype=bool)
    near = np.flatnonzero(table.voc_ious >= iou)
    near = near[np.lexsort((-table.voc_ious[near], table.pair_detections[near]))]
    detections, first = np.unique(table.pair_detections[near], return_index=True)
    best = table.pair_objects[near[first]]
    hard = table.ignored[best]
    neutral[detections[hard]] = True
    _, first = np.unique(best[~hard], return_index=True)
    hits[detections[~hard][first]] = True
    return hits, neutral


def _average(seen: Ints, objects: int) -> tuple[float, float]:
    """Return 11-point and area average precision.

    Args:
        seen: At each true positive, the detections that count up to there, ``(n,)``. Precision peaks nowhere else.
        objects: Objects to find, at least one.
    """
    true = np.arange(1, len(seen) + 1)
    recall = true / objects
    best = np.maximum.accumulate((true / seen)[::-1])[::-1]
    at = np.searchsorted(recall, ELEVEN_POINTS, side="left")
    return float(np.append(best, 0.0)[at].sum() / len(ELEVEN_POINTS)), float(best.sum() / objects)
