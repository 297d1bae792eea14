"""Average precision and recall as pycocotools measures them, from the match table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_mm.evaluation.coco_matching import GreedyMatches, match_greedily
from kd_mm.evaluation.matches import Bools, Floats, Ints, MatchTable

#: IoU thresholds and recalls, made as pycocotools makes them: the last digits count.
THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10, dtype=np.float64)
RECALLS: Floats = np.linspace(0.0, 1.0, 101, dtype=np.float64)
#: Smallest and largest area in square pixels, both inclusive.
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
#: Detections of an image and class that take part.
MAX_DETECTIONS = 100
_FEW = (1, 10)


@dataclass(frozen=True)
class CocoResult:
    """COCO average precision and recall, fractions in [0, 1], unrounded; NaN where a class has no object to find.

    Attributes:
        ap: For each class, area range (all, small, medium, large) and IoU threshold (0.50, 0.55, ... 0.95),
            ``(K, 4, 10)``.
        recall: The highest recall, likewise, ``(K, 4, 10)``.
        recall_few: Recall of all areas with at most 1 and at most 10 detections of an image and class, ``(K, 2, 10)``.
        objects: Objects to find of each class and area range, ``(K, 4)``.
    """

    ap: Floats
    recall: Floats
    recall_few: Floats
    objects: Ints

    def summary(self) -> dict[str, float]:
        """Return the twelve numbers of COCO: means over the classes that have objects to find, NaN without any."""
        few = self.recall_few
        return {
            "mAP": _mean(self.ap[:, 0]),
            "AP50": _mean(self.ap[:, 0, 0]),
            "AP75": _mean(self.ap[:, 0, 5]),
            "AP_small": _mean(self.ap[:, 1]),
            "AP_medium": _mean(self.ap[:, 2]),
            "AP_large": _mean(self.ap[:, 3]),
            "AR@1": _mean(few[:, 0]),
            "AR@10": _mean(few[:, 1]),
            "AR@100": _mean(self.recall[:, 0]),
            "AR_small": _mean(self.recall[:, 1]),
            "AR_medium": _mean(self.recall[:, 2]),
            "AR_large": _mean(self.recall[:, 3]),
        }


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def coco_average_precision(table: MatchTable) -> CocoResult:
    """Measure COCO average precision and recall.

    Exactly what ``pycocotools.cocoeval.COCOeval`` says of the same boxes, where an object that the table ignores has
    ``iscrowd=1``: pycocotools reads nothing else. So a difficult object need not be found; any number of detections
    of its class may lie on it, by the share of the detection that it covers, and count neither as true nor as false.
    Areas of objects are those of their boxes. Of equal scores, the earlier image and the earlier detection come first.

    Args:
        table: The match table, made with ``min_iou`` no higher than 0.5.

    Raises:
        ValueError: The table leaves out pairs with an IoU of 0.5 or more.
    """
    if table.min_iou > THRESHOLDS[0]:
        raise ValueError(f"the match table was made with min_iou={table.min_iou}: COCO needs {THRESHOLDS[0]} or less")
    matches = match_greedily(table, THRESHOLDS, list(AREAS.values()), MAX_DETECTIONS)
    classes, kinds = table.num_classes, matches.hits.shape[1:]
    objects = _count_objects(table, matches)
    ap, recall = np.full((classes, *kinds), np.nan), np.full((classes, *kinds), np.nan)
    few = np.full((classes, len(_FEW), kinds[1]), np.nan)
    counted, positions = _counted(table)
    order = np.argsort(positions[matches.detections])
    bounds = np.searchsorted(positions[matches.detections[order]], table.starts)
    for label in np.flatnonzero(objects[:, 0]):
        mine, start = order[bounds[label] : bounds[label + 1]], table.starts[label]
        detections = matches.detections[mine]
        hits, wanted = matches.hits[mine], objects[label]
        before = counted[:, start - 1, None] if start else 0
        seen = (counted[:, positions[detections]] - before).T[:, :, None]
        matched = (hits | matches.neutral[mine]) & _in_range(table.areas[detections]).T[:, :, None]
        false = seen - np.cumsum(matched, axis=0)
        ap[label], recall[label] = _average(hits, false, wanted)
        few[label] = [hits[table.ranks[detections] < limit, 0].sum(axis=0) / wanted[0] for limit in _FEW]
    return CocoResult(ap, recall, few, objects)


def _count_objects(table: MatchTable, matches: GreedyMatches) -> Ints:
    kinds = range(matches.unwanted.shape[1])
    labels = [table.object_labels[~matches.unwanted[:, kind]] for kind in kinds]
    return np.stack([np.bincount(part, minlength=table.num_classes) for part in labels], axis=1)


def _in_range(areas: Floats) -> Bools:
    low, high = np.array(list(AREAS.values())).T[:, :, None]
    return (areas >= low) & (areas <= high)


def _counted(table: MatchTable) -> tuple[Ints, Ints]:
    """Return how many detections up to each place by score count if unmatched, ``(A, D)``, and each one's place."""
    taking_part = table.ranks[table.by_score] < MAX_DETECTIONS
    counted: Ints = np.cumsum(_in_range(table.areas[table.by_score]) & taking_part, axis=1)
    positions = np.empty(len(table.by_score), dtype=np.int64)
    positions[table.by_score] = np.arange(len(positions))
    return counted, positions


def _average(hits: Bools, false: Ints, objects: Ints) -> tuple[Floats, Floats]:
    """Return average precision and highest recall ``(A, T)`` of a class.

    Args:
        hits: True positives in the order of the scores, ``(C, A, T)``.
        false: False positives up to there, ``(C, A, T)``. Detections that match nothing need no row of their own:
            precision peaks at true positives.
        objects: Objects to find, ``(A,)``.
    """
    rows, ranges, thresholds = hits.shape
    true = np.cumsum(hits, axis=0)
    found = hits.sum(axis=0)
    precision = true / (false + true + np.spacing(1))
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1].reshape(rows, ranges * thresholds).T
    kind, row = np.nonzero(hits.reshape(rows, ranges * thresholds).T)
    peaks = np.append(best[kind, row], 0.0)
    starts = np.cumsum(found.ravel()) - found.ravel()
    ap, recall = np.full((ranges, thresholds), np.nan), np.full((ranges, thresholds), np.nan)
    for i in np.flatnonzero(objects):
        at = np.searchsorted(np.arange(1, objects[i] + 1) / objects[i], RECALLS, side="left")
        columns = slice(i * thresholds, (i + 1) * thresholds)
        index = np.where(at < found[i][:, None], starts[columns, None] + at, len(peaks) - 1)
        ap[i], recall[i] = peaks[index].mean(axis=1), found[i] / objects[i]
    return ap, recall
