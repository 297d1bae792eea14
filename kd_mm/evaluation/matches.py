"""The match table: every overlap of a detection with an object of its own class, computed once for all measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: Pairs that are overlapped at a time: bounds the memory, and keeps the work in the cache.
_CHUNK = 1 << 17


@dataclass(frozen=True)
class MatchTable:
    """Detections and objects of all images and classes, and the pairs of them that overlap.

    D detections lie sorted by image, then class, then descending score; equal scores keep the order in which they were
    given. G objects lie sorted by image, then class, those that count before those that are ignored. P pairs lie sorted
    by detection, then object.

    Attributes:
        num_classes: K.
        num_images: Images that were evaluated, with or without boxes.
        labels: Class of each detection, ``(D,)``.
        scores: Score of each detection, ``(D,)``.
        groups: Image and class of each detection as one number, ``(D,)``, ascending.
        ranks: Place of each detection among those of its image and class, from 0, ``(D,)``.
        areas: Width times height of each detection in square pixels, ``(D,)``.
        by_score: The order by class, then descending score, then image, ``(D,)``.
        starts: Where each class starts in ``by_score``, ``(K + 1,)``.
        object_labels: Class of each object, ``(G,)``.
        object_areas: Width times height of each object in square pixels, ``(G,)``.
        ignored: Objects that need not be found (VOC's difficult ones), ``(G,)``.
        pair_detections: Detection of each pair, ``(P,)``.
        pair_objects: Object of each pair, ``(P,)``.
        voc_ious: Intersection over union as VOC measures it, ``(P,)``.
        coco_ious: As COCO measures it, ``(P,)``: without the inclusive pixel; with an ignored object, intersection over
            the area of the detection.
        inclusive: Whether ``voc_ious`` count the last pixel of a box as part of it.
        min_iou: A pair is in the table where one of the two overlaps reaches this.
    """

    num_classes: int
    num_images: int
    labels: Ints
    scores: Floats
    groups: Ints
    ranks: Ints
    areas: Floats
    by_score: Ints
    starts: Ints
    object_labels: Ints
    object_areas: Floats
    ignored: Bools
    pair_detections: Ints
    pair_objects: Ints
    voc_ious: Floats
    coco_ious: Floats
    inclusive: bool
    min_iou: float


def match_boxes(
    detections: Sequence[NDArray[Any]],
    objects: Sequence[NDArray[Any]],
    num_classes: int,
    inclusive: bool = True,
    min_iou: float = 0.5,
) -> MatchTable:
    """Build the match table of a data set.

    Args:
        detections: For each image an array ``(n, 6)``: x1, y1, x2, y2 in pixels, score, class.
        objects: For each image, in the same order, an array ``(m, 6)``: x1, y1, x2, y2 in pixels, class, and 1 for an
            object that is ignored, else 0.
        num_classes: Classes are numbered from 0 to K - 1.
        inclusive: Widths and heights of VOC are ``x2 - x1 + 1``: corners are pixels, as in the official development
            kit and in mmdet's ``VOCMetric``. COCO's never are.
        min_iou: The smallest overlap that will be asked for.

    Raises:
        ValueError: Numbers of images that differ, or a class that is no class.
    """
    if len(detections) != len(objects):
        raise ValueError(f"detections of {len(detections)} images, objects of {len(objects)}: give both of each image")
    found, image = _stack(detections)
    scores, labels = found[4], found[5].astype(np.int64)
    by_score, grouped = _orders(scores, labels, image)
    place = np.empty(len(grouped), dtype=np.int64)
    place[grouped] = np.arange(len(grouped))
    boxes, labels = found[:4, grouped], labels[grouped]
    groups = image[grouped] * num_classes + labels
    wanted, object_image = _stack(objects)
    for what, numbers in (("detections", labels), ("objects", wanted[4])):
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < num_classes:
            raise ValueError(f"{what} of class {numbers.min():g} to {numbers.max():g}, but num_classes={num_classes}")
    object_groups = object_image * num_classes + wanted[4].astype(np.int64)
    order = np.argsort(2 * object_groups + (wanted[5] != 0), kind="stable")
    wanted, object_groups = wanted[:, order], object_groups[order]
    ignored = wanted[5] != 0
    pairs = _pairs(boxes, groups, wanted[:4], object_groups, ignored, inclusive, min_iou)
    return MatchTable(
        num_classes=num_classes,
        num_images=len(detections),
        labels=labels,
        scores=scores[grouped],
        groups=groups,
        ranks=places_within(groups),
        areas=_areas(boxes),
        by_score=place[by_score],
        starts=np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=num_classes))]).astype(np.int64),
        object_labels=wanted[4].astype(np.int64),
        object_areas=_areas(wanted),
        ignored=ignored,
        pair_detections=pairs[0],
        pair_objects=pairs[1],
        voc_ious=pairs[2],
        coco_ious=pairs[3],
        inclusive=inclusive,
        min_iou=min_iou,
    )


def places_within(groups: Ints) -> Ints:
    """Return the place of each item, from 0, among the neighbours that have the same group number, ``(N,)``."""
    at = np.arange(len(groups), dtype=np.int64)
    first = np.ones(len(groups), dtype=bool)
    first[1:] = groups[1:] != groups[:-1]
    return at - np.maximum.accumulate(np.where(first, at, 0))


def _stack(rows: Sequence[NDArray[Any]]) -> tuple[Floats, Ints]:
    """Return all rows as columns ``(6, N)`` in float64, and the image of each."""
    whole = np.concatenate([np.empty((0, 6), dtype=np.float32), *rows])
    image = np.repeat(np.arange(len(rows), dtype=np.int64), [len(part) for part in rows])
    return np.ascontiguousarray(whole.T, dtype=np.float64), image


def _orders(scores: Floats, labels: Ints, image: Ints) -> tuple[Ints, Ints]:
    """Return the order by class and descending score, and the one by image, class and descending score; both stable."""
    by_score = np.argsort(-scores, kind="stable")
    by_score = by_score[np.argsort(_narrow(labels)[by_score], kind="stable")]
    return by_score, by_score[np.argsort(_narrow(image)[by_score], kind="stable")]


def _narrow(numbers: Ints) -> NDArray[Any]:
    # numpy sorts 16-bit numbers by radix, ten times as fast.
    return numbers.astype(np.uint16) if not len(numbers) or numbers.max() < 1 << 16 else numbers


def _areas(boxes: Floats) -> Floats:
    return (boxes[2] - boxes[0]) * (boxes[3] - boxes[1])


def _pairs(
    boxes: Floats, groups: Ints, wanted: Floats, object_groups: Ints, ignored: Bools, inclusive: bool, min_iou: float
) -> tuple[Ints, Ints, Floats, Floats]:
    start = np.searchsorted(object_groups, groups, side="left")
    count = np.searchsorted(object_groups, groups, side="right") - start
    with_objects = np.flatnonzero(count)
    start, count = start[with_objects], count[with_objects]
    ends = np.cumsum(count)
    parts: list[tuple[Any, ...]] = []
    low = 0
    while low < len(with_objects):
        done = ends[low - 1] if low else 0
        high = max(low + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
        repeats = count[low:high]
        first = np.repeat(ends[low:high] - repeats - done, repeats)
        detection = np.repeat(with_objects[low:high], repeats)
        thing = np.repeat(start[low:high], repeats) + np.arange(len(first)) - first
        parts.append(_overlaps(boxes, wanted, detection, thing, ignored, inclusive, min_iou))
        low = high
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0)
    first_part, second, third, fourth = (np.concatenate(column) for column in zip(*parts, strict=True))
    return first_part, second, third, fourth


def _overlaps(
    boxes: Floats, wanted: Floats, detection: Ints, thing: Ints, ignored: Bools, inclusive: bool, min_iou: float
) -> tuple[Ints, Ints, Floats, Floats]:
    """Return the pairs that overlap enough, with both kinds of overlap."""
    extra = 1.0 if inclusive else 0.0
    width = np.minimum(boxes[2][detection], wanted[2][thing]) - np.maximum(boxes[0][detection], wanted[0][thing])
    height = np.minimum(boxes[3][detection], wanted[3][thing]) - np.maximum(boxes[1][detection], wanted[1][thing])
    touching = np.flatnonzero((width + extra > 0) & (height + extra > 0))
    width, height, detection, thing = width[touching], height[touching], detection[touching], thing[touching]
    a, b = boxes[:, detection], wanted[:, thing]
    voc = _iou((width + extra) * (height + extra), _sized(a, extra), _sized(b, extra))
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    coco = _iou(shared, _sized(a, 0.0), np.where(ignored[thing], shared, _sized(b, 0.0)))
    kept = np.flatnonzero(np.maximum(voc, coco) >= min_iou)
    return detection[kept], thing[kept], voc[kept], coco[kept]


def _sized(boxes: Floats, extra: float) -> Floats:
    return (boxes[2] - boxes[0] + extra) * (boxes[3] - boxes[1] + extra)


def _iou(shared: Floats, one: Floats, other: Floats) -> Floats:
    union = one + other - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=(shared > 0) & (union > 0))
