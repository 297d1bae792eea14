"""The greedy matching of COCO, for all IoU thresholds and area ranges at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kd_mm.evaluation.matches import Bools, Floats, Ints, MatchTable, places_within

Counts = NDArray[np.uint16]


@dataclass(frozen=True)
class GreedyMatches:
    """What became of the detections that overlap an object enough to be matched; all others match nothing.

    Attributes:
        detections: Indices into the match table, ascending, ``(C,)``.
        hits: Matched to an object that counts, ``(C, A, T)`` for A area ranges and T thresholds.
        neutral: Matched to an object that is ignored or outside of the area range, ``(C, A, T)``.
        unwanted: Objects that are ignored or outside of the area range, ``(G, A)``.
    """

    detections: Ints
    hits: Bools
    neutral: Bools
    unwanted: Bools


def match_greedily(
    table: MatchTable, thresholds: Floats, ranges: Sequence[tuple[float, float]], max_detections: int = 100
) -> GreedyMatches:
    """Match detections to objects as pycocotools does.

    In each image and class the detections choose in descending order of their scores. Each takes the object that it
    overlaps most among those that are free and reach the threshold; of equals the last; an unwanted object only where
    no other is left. Objects that are ignored (COCO's crowds) stay free whoever takes them.

    Args:
        table: The match table.
        thresholds: Ascending IoU thresholds, ``(T,)``.
        ranges: A smallest and largest areas of objects in square pixels, both inclusive.
        max_detections: Detections that take part in each image and class.
    """
    areas = table.object_areas[:, None]
    low, high = np.array(ranges, dtype=np.float64).T
    unwanted = table.ignored[:, None] | (areas < low) | (areas > high)
    near = (table.coco_ious >= thresholds[0]) & (table.ranks[table.pair_detections] < max_detections)
    pairs = np.flatnonzero(near)
    detections, places = np.unique(table.pair_detections[pairs], return_inverse=True)
    shape = (len(detections), len(ranges), len(thresholds))
    hits, neutral = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    # One round for each place in the order of choosing: within a round, no two detections compete.
    rounds = places_within(table.groups[detections])
    pairs = pairs[np.lexsort((table.pair_objects[pairs], table.coco_ious[pairs], places, rounds[places]))]
    places = np.searchsorted(detections, table.pair_detections[pairs])
    things, reached = table.pair_objects[pairs], table.coco_ious[pairs, None] >= thresholds
    appeal, dull = _appeal(places, unwanted[things])
    taken = np.zeros((len(unwanted), *shape[1:]), dtype=bool)
    bounds = np.concatenate([[0], np.cumsum(np.bincount(rounds[places]))])
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        part = slice(start, end)
        first = np.flatnonzero(np.diff(places[part], prepend=-1))
        chooser, thing = places[part][first], things[part]
        offers = (reached[part, None, :] & ~taken[thing]) * appeal[part, :, None]
        best = np.maximum.reduceat(offers, first, axis=0)
        limit = dull[part][first][:, :, None]
        hits[chooser], neutral[chooser] = best > limit, (best > 0) & (best <= limit)
        won = (offers > 0) & (offers == np.repeat(best, np.diff(first, append=end - start), axis=0))
        taken[thing] |= won & ~table.ignored[thing, None, None]
    return GreedyMatches(detections, hits, neutral, unwanted)


def _appeal(places: Ints, unwanted: Bools) -> tuple[Counts, Counts]:
    """Number the pairs of each detection by preference, from 1 for the least.

    Args:
        places: Detection of each pair, ``(P,)``, neighbours; within each, the overlap rises.
        unwanted: Whether the object is unwanted, ``(P, A)``.

    Returns:
        The numbers, ``(P, A)``, and how many of them in the same detection belong to unwanted objects, ``(P, A)``.
    """
    if not len(places):
        return np.zeros(unwanted.shape, dtype=np.uint16), np.zeros(unwanted.shape, dtype=np.uint16)
    first = np.flatnonzero(np.diff(places, prepend=-1))
    sizes = np.diff(first, append=len(places))
    dull = np.add.reduceat(unwanted, first, axis=0, dtype=np.int64)
    running = np.cumsum(unwanted, axis=0)
    among_dull: Ints = running - np.repeat(running[first] - unwanted[first], sizes, axis=0)
    place = (np.arange(len(places)) - np.repeat(first, sizes) + 1)[:, None]
    dull = np.repeat(dull, sizes, axis=0)
    return np.where(unwanted, among_dull, place - among_dull + dull).astype(np.uint16), dull.astype(np.uint16)
