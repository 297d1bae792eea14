"""What re-identification networks find for the queries of their test data, by the features that they predicted."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kd_mm.evaluation.draw_retrieval import RetrievalResult
from kd_mm.evaluation.reid_distances import JUNK, Images
from kd_mm.evaluation.reid_metric import gather
from kd_mm.evaluation.reid_rank import top_images


def rank(
    embedded: Mapping[str, tuple[Images, Images]], queries: int, pick: str, setting: str, **options: Any
) -> RetrievalResult:
    """Rank the gallery for each network; the first one decides which queries are selected.

    Args:
        embedded: Queries and gallery by network, see :func:`split_images`.
        queries: Queries to show, at most.
        pick: ``"even"``: queries at equal steps through the data set; ``"worst"``: of least average precision.
        setting: A text for the picture.
        **options: For :func:`kd_mm.evaluation.reid_rank.top_images`.
    """
    tops = {name: top_images(query, gallery, **options) for name, (query, gallery) in embedded.items()}
    first = next(iter(embedded))
    selected = select_queries(tops[first].average_precision, queries, pick)
    return RetrievalResult(*embedded[first], tops, selected, setting)


def split_images(images: Iterable[Any]) -> tuple[Images, Images]:
    """Return queries and gallery; without junk, so that gallery numbers are the same with and without re-ranking."""
    images = [image for image in images if image.pid != JUNK]
    return gather(images, "query"), gather(images, "gallery")


def select_queries(precision: Any, number: int, pick: str) -> list[int]:
    """Return the numbers of valid queries to show, in the order to show them; see :func:`rank`.

    ``precision`` is the average precision ``(Q,)``, NaN where a query is not valid.
    """
    valid = np.flatnonzero(~np.isnan(precision))
    if pick == "worst":
        return [int(i) for i in valid[np.argsort(precision[valid], kind="stable")][:number]]
    return [int(valid[i]) for i in np.unique(np.linspace(0, len(valid) - 1, number).round().astype(int))]
