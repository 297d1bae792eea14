"""Matching of detections to objects as VOC and COCO define it, for all images and classes at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: IoU thresholds of COCO, made as pycocotools makes them: the last digits count.
COCO_IOUS = np.linspace(0.5, 0.95, 10)
#: Detections of an image and class that COCO's measures use.
COCO_DETECTIONS = (1, 10, 100)
#: Pairs of boxes that are compared at once.
_CHUNK = 1 << 17


@dataclass(frozen=True)
class BoxPairs:
    """Detections and objects of all images and classes, and the pairs of them that overlap.

    D detections are sorted by image, class and descending score; G objects by image and class, ignored ones last; P
    pairs by detection and object.
    """

    ranks: Ints  # of each detection in its image and class, from 0, (D,)
    areas: Floats  # of each detection, (D,)
    by_score: Ints  # the order by class, descending score and image, (D,)
    starts: Ints  # of each class in by_score, (K + 1,)
    object_labels: Ints  # (G,)
    object_areas: Floats  # (G,)
    ignored: Bools  # (G,)
    pair_detections: Ints  # (P,)
    pair_objects: Ints  # (P,)
    voc_ious: Floats  # (P,)
    coco_ious: Floats  # without the inclusive pixel; with ignored objects over the area of the detection, (P,)


def compare_boxes(
    detections: Sequence[NDArray[Any]],
    objects: Sequence[NDArray[Any]],
    num_classes: int,
    inclusive: bool,
    min_iou: float,
) -> BoxPairs:
    """Sort the boxes of all images and compute the overlaps of each image and class.

    Args:
        detections: ``(n, 6)`` of each image: x1, y1, x2, y2 in pixels, score, class.
        objects: ``(m, 6)`` of each image: x1, y1, x2, y2 in pixels, class, whether it is ignored.
        num_classes: K.
        inclusive: Whether VOC's overlaps count corners as pixels (widths are ``x2 - x1 + 1``).
        min_iou: Pairs below it in both overlaps are left out.

    Raises:
        ValueError: Lists of different lengths, or a class outside of ``[0, K)``.
    """
    if len(detections) != len(objects):
        raise ValueError(f"detections of {len(detections)} images, objects of {len(objects)}: give both of each image")
    found, image = _stack(detections)
    wanted, object_image = _stack(objects)
    for what, numbers in (("detections", found[5]), ("objects", wanted[4])):
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < num_classes:
            raise ValueError(f"{what} of class {numbers.min():g} to {numbers.max():g}, but num_classes={num_classes}")
    labels = found[5].astype(np.int64)
    by_score = np.lexsort((-found[4], _narrow(labels)))
    order = by_score[np.argsort(_narrow(image)[by_score], kind="stable")]
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order))
    found, groups = found[:, order], image[order] * num_classes + labels[order]
    first = np.flatnonzero(np.diff(groups, prepend=-1))
    object_groups = object_image * num_classes + wanted[4].astype(np.int64)
    order = np.argsort(2 * object_groups + (wanted[5] != 0), kind="stable")
    wanted, object_groups = wanted[:, order], object_groups[order]
    ignored = wanted[5] != 0
    parts = [
        _overlaps(found, wanted, ignored, *pairs, 1.0 if inclusive else 0.0, min_iou)
        for pairs in _pairs(groups, object_groups)
    ]
    pair_detections, pair_objects, voc_ious, coco_ious = map(np.concatenate, zip(*parts, strict=True))
    return BoxPairs(
        ranks=np.arange(len(groups)) - np.repeat(first, np.diff(first, append=len(groups))),
        areas=_area(found, 0.0),
        by_score=position[by_score],
        starts=np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=num_classes))]),
        object_labels=wanted[4].astype(np.int64),
        object_areas=_area(wanted, 0.0),
        ignored=ignored,
        pair_detections=pair_detections,
        pair_objects=pair_objects,
        voc_ious=voc_ious,
        coco_ious=coco_ious,
    )


def _stack(rows: Sequence[NDArray[Any]]) -> tuple[Floats, Ints]:
    """Return all rows as columns ``(6, N)`` in float64, and the image of each."""
    stacked = np.concatenate([np.empty((0, 6), dtype=np.float32), *rows])
    image = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
    return np.ascontiguousarray(stacked.T, dtype=np.float64), image


def _narrow(numbers: Ints) -> NDArray[Any]:
    # numpy sorts 16-bit numbers by radix, ten times as fast.
    return numbers.astype(np.uint16) if not len(numbers) or numbers.max() < 1 << 16 else numbers


def _pairs(groups: Ints, object_groups: Ints) -> list[tuple[Ints, Ints]]:
    """Return all pairs of a detection and an object of one group, both sorted by group, in chunks."""
    start = np.searchsorted(object_groups, groups, side="left")
    count = np.searchsorted(object_groups, groups, side="right") - start
    some = np.flatnonzero(count)
    start, count = start[some], count[some]
    ends = np.cumsum(count)
    edges = np.searchsorted(ends, np.arange(_CHUNK, count.sum(), _CHUNK))
    chunks = []
    for low, high in pairwise([0, *edges.tolist(), len(some)]):
        repeats = count[low:high]
        shift = start[low:high] - np.cumsum(repeats) + repeats
        objects = np.arange(repeats.sum()) + np.repeat(shift, repeats)
        chunks.append((np.repeat(some[low:high], repeats), objects))
    return chunks


def _overlaps(
    boxes: Floats, wanted: Floats, ignored: Bools, detection: Ints, thing: Ints, extra: float, min_iou: float
) -> tuple[Ints, Ints, Floats, Floats]:
    """Return the pairs with an overlap of at least ``min_iou``, and their VOC and COCO overlaps."""
    width = np.minimum(boxes[2][detection], wanted[2][thing]) - np.maximum(boxes[0][detection], wanted[0][thing])
    height = np.minimum(boxes[3][detection], wanted[3][thing]) - np.maximum(boxes[1][detection], wanted[1][thing])
    touching = np.flatnonzero((width + extra > 0) & (height + extra > 0))
    width, height, detection, thing = width[touching], height[touching], detection[touching], thing[touching]
    one, other = boxes[:, detection], wanted[:, thing]
    voc = _iou((width + extra) * (height + extra), _area(one, extra), _area(other, extra))
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    coco = _iou(shared, _area(one, 0.0), np.where(ignored[thing], shared, _area(other, 0.0)))
    kept = np.flatnonzero(np.maximum(voc, coco) >= min_iou)
    return detection[kept], thing[kept], voc[kept], coco[kept]


def _area(boxes: Floats, extra: float) -> Floats:
    return (boxes[2] - boxes[0] + extra) * (boxes[3] - boxes[1] + extra)


def _iou(shared: Floats, one: Floats, other: Floats) -> Floats:
    union = one + other - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=(shared > 0) & (union > 0))


def match_voc(boxes: BoxPairs, iou: float) -> tuple[Bools, Bools]:
    """Return which detections ``(D,)`` are true positives, and which lie on ignored objects."""
    hits, neutral = np.zeros(len(boxes.ranks), dtype=bool), np.zeros(len(boxes.ranks), dtype=bool)
    near = np.flatnonzero(boxes.voc_ious >= iou)
    near = near[np.lexsort((-boxes.voc_ious[near], boxes.pair_detections[near]))]
    detections, first = np.unique(boxes.pair_detections[near], return_index=True)
    best = boxes.pair_objects[near[first]]
    ignored = boxes.ignored[best]
    neutral[detections[ignored]] = True
    _, first = np.unique(best[~ignored], return_index=True)
    hits[detections[~ignored][first]] = True
    return hits, neutral


def match_coco(boxes: BoxPairs, unwanted: Bools) -> tuple[Ints, Bools, Bools]:
    """Match detections to objects as pycocotools does, for all areas and IoU thresholds at once.

    In each image and class, by descending score, each detection takes the free object that it overlaps most, of equals
    the last; an unwanted object only where no other reaches the threshold. Ignored objects stay free.

    Args:
        boxes: The boxes.
        unwanted: Objects that are ignored or outside of an area range, ``(G, A)``.

    Returns:
        The detections ``(C,)`` that overlap an object enough; and which of them match a wanted, and which an unwanted
        object, both ``(C, A, T)`` for T thresholds.
    """
    near = boxes.coco_ious >= COCO_IOUS[0]
    pairs = np.flatnonzero(near & (boxes.ranks[boxes.pair_detections] < COCO_DETECTIONS[-1]))
    chooser, ranks = boxes.pair_detections[pairs], boxes.ranks[boxes.pair_detections[pairs]]
    # In rounds: detections of one rank do not compete. A detection's pairs are neighbours, their overlap ascends.
    pairs = pairs[np.lexsort((boxes.pair_objects[pairs], boxes.coco_ious[pairs], chooser, ranks))]
    detections, owner, sizes = np.unique(boxes.pair_detections[pairs], return_inverse=True, return_counts=True)
    thing, reached = boxes.pair_objects[pairs], boxes.coco_ious[pairs, None] >= COCO_IOUS
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    # Preference from 1 to n for a detection's n unwanted objects, and from n + 1 to 2 n for the others.
    preference = (np.arange(1, len(pairs) + 1) - np.repeat(first, sizes[owner[first]]))[:, None]
    preference = (preference + sizes[owner][:, None] * ~unwanted[thing]).astype(np.uint16)
    hits = np.zeros((len(detections), unwanted.shape[1], len(COCO_IOUS)), dtype=bool)
    neutral = hits.copy()
    used = np.zeros((len(unwanted), *hits.shape[1:]), dtype=bool)
    for start, end in pairwise([0, *np.cumsum(np.bincount(ranks)).tolist()]):
        if start == end:
            continue
        part = slice(start, end)
        first = np.flatnonzero(np.diff(owner[part], prepend=-1))
        own, objects = owner[part][first], thing[part]
        offers = (reached[part, None, :] & ~used[objects]) * preference[part, :, None]
        best = np.maximum.reduceat(offers, first, axis=0)
        limit = sizes[own][:, None, None]
        hits[own], neutral[own] = best > limit, (best > 0) & (best <= limit)
        won = (offers > 0) & (offers == np.repeat(best, sizes[own], axis=0))
        used[objects] |= won & ~boxes.ignored[objects, None, None]
    return detections, hits, neutral
