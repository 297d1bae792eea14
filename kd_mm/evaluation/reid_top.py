"""What a query finds first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_mm.evaluation.reid import measures, ranked_blocks
from kd_mm.evaluation.reid_inputs import Ids, read_images
from kd_mm.evaluation.reid_samples import Gallery
from kd_mm.evaluation.rerank import check_options
from kd_mm.evaluation.rerank_neighbours import smallest


@dataclass(frozen=True)
class TopImages:
    """What each query finds first, and the measures of all of them.

    Attributes:
        images: ``(Q, n)``: gallery numbers, nearest first, without those that do not count; -1 where there are no more.
        distances: ``(Q, n)``, infinite where there are no more.
        average_precision: ``(Q,)`` in [0, 1], NaN for a query that is not valid.
        measures: As :func:`kd_mm.evaluation.evaluate_reid` returns them.
    """

    images: Ids
    distances: NDArray[Any]
    average_precision: NDArray[np.float64]
    measures: dict[str, Any]


def top_images(
    query: Gallery,
    gallery: Gallery,
    count: int = 10,
    metric: str = "cosine",
    rerank: Mapping[str, Any] | None = None,
    max_rank: int = 50,
) -> TopImages:
    """Rank a gallery for each query, as :func:`kd_mm.evaluation.evaluate_reid` does.

    Args:
        query: The queries, without junk.
        gallery: The gallery, without junk.
        count: Images of a query.
        metric: ``"cosine"`` or ``"euclidean"``.
        rerank: Options of re-ranking, or None.
        max_rank: Length of ``cmc``.

    Raises:
        ValueError: As for :func:`kd_mm.evaluation.evaluate_reid`.
    """
    sides = [(side.features, side.pids, side.camids) for side in (query, gallery)]
    queries, candidates = read_images(sides[0], sides[1], metric)
    count = min(count, len(candidates))
    images = np.full((len(queries), count), -1, dtype=np.int64)
    distances, precision = np.full((len(queries), count), np.inf), np.full(len(queries), np.nan)
    found = []
    for start, block, ranks in ranked_blocks(
        queries, candidates, metric, None if rerank is None else check_options(rerank)
    ):
        rows = slice(start, start + len(block))
        images[rows], distances[rows] = smallest(block, count)
        precision[start + ranks.queries] = ranks.average_precision()
        found.append(ranks)
    images[np.isinf(distances)] = -1
    return TopImages(images, distances, precision, measures(found, queries, max_rank))
