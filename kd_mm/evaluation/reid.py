"""Measures of person re-identification, or of any retrieval, from features."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from kd_mm.evaluation.reid_distances import Distances
from kd_mm.evaluation.reid_inputs import JUNK, Features, Images, read_images
from kd_mm.evaluation.reid_ranks import GalleryRanks, Ranks
from kd_mm.evaluation.rerank import ReRanking, check_options


def evaluate_reid(
    query_features: Features,
    gallery_features: Features,
    query_pids: Any,
    gallery_pids: Any,
    query_camids: Any,
    gallery_camids: Any,
    metric: str = "cosine",
    rerank: Mapping[str, Any] | None = None,
    max_rank: int = 50,
    chunk_size: int | None = None,
) -> dict[str, Any]:
    """Measure how well queries find images of the same person in a gallery.

    The protocol is that of Market-1501 (Zheng et al., ICCV 2015): for each query, gallery images of the same person
    from the same camera and junk (person id -1) count as absent; all others are ranked by their distance, equal ones by
    their place in the gallery. Distractors (person id 0) stay in as wrong answers. Ids are compared and nothing else: a
    query with id 0 finds gallery images with id 0. A query without any right image is not valid and counts nowhere;
    neither does a junk query.

    Args:
        query_features: ``(Q, D)``, an array or a tensor of any real type on any device; float64 is worked on as such,
            everything else as float32, never in lower precision.
        gallery_features: ``(G, D)``.
        query_pids: ``(Q,)`` whole numbers.
        gallery_pids: ``(G,)``.
        query_camids: ``(Q,)`` whole numbers; None, here and for the gallery, switches the camera rule off.
        gallery_camids: ``(G,)``.
        metric: ``"cosine"`` or ``"euclidean"``.
        rerank: None, or options of k-reciprocal re-ranking: ``k1`` (default 20), ``k2`` (6), ``lambda_value`` (0.3);
            see :class:`kd_mm.evaluation.ReRanking`.
        max_rank: Length of ``cmc``.
        chunk_size: Queries whose distances are held at once; default: as many as fit into 64 MiB, at least 64.

    Returns:
        ``mAP``: mean over the valid queries of ``mean_k(k / r_k)``, where ``r_k`` is the place of the k-th right image;
        ``mAP_trapz``: the same with the trapezoids of the official Market-1501 script,
        ``mean_k(((k - 1) / (r_k - 1) + k / r_k) / 2)``, the first fraction being 1 for ``r_k = 1``; ``mINP``: mean of
        ``K / r_K`` (Ye et al., TPAMI 2021); ``cmc``: ``(max_rank,)`` float64, the share of valid queries whose first
        right image stands at that place or before; all of these in [0, 1]; and ``num_valid_queries``.

    Raises:
        ValueError: The input does not fit, holds NaN, or has no valid query.
    """
    if isinstance(max_rank, bool) or not isinstance(max_rank, int | np.integer) or max_rank < 1:
        raise ValueError(f"max_rank={max_rank}: give the length of the CMC curve, a whole number of at least 1")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: give at least 1 query, or None")
    options = None if rerank is None else check_options(rerank)
    query, gallery = read_images(
        (query_features, query_pids, query_camids), (gallery_features, gallery_pids, gallery_camids), metric
    )
    if options is not None:
        query, gallery = _all_but_junk(query), gallery.without_junk()
    blocks = ranked_blocks(query, gallery, metric, options, chunk_size)
    return measures([ranks for _, _, ranks in blocks], query, int(max_rank))


def ranked_blocks(
    query: Images,
    gallery: Images,
    metric: str = "cosine",
    rerank: Mapping[str, Any] | None = None,
    chunk_size: int | None = None,
) -> Iterator[tuple[int, NDArray[Any], Ranks]]:
    """Yield, for some queries at a time, the first one's number, distances and the places of right images.

    Args:
        query: The queries; for re-ranking without junk.
        gallery: The gallery; for re-ranking without junk.
        metric: As for :func:`evaluate_reid`.
        rerank: None, or all options of re-ranking.
        chunk_size: As for :func:`evaluate_reid`.

    Yields:
        A number; distances ``(n, G)``, infinite to images that do not count, in memory that is used again; places.
    """
    blocks: Iterator[tuple[int, NDArray[Any]]]
    if rerank is None:
        blocks = Distances(query.features, gallery.features, metric, chunk_size).blocks()
    else:
        blocks = ReRanking(query.features, gallery.features, metric, **rerank, chunk_size=chunk_size).blocks()
    finder = GalleryRanks(gallery)
    for start, distances in blocks:
        rows = slice(start, start + len(distances))
        cameras = None if query.camids is None else query.camids[rows]
        yield start, distances, finder.find(distances, query.pids[rows], cameras)


def _all_but_junk(query: Images) -> Images:
    rest = query.without_junk()
    if not len(rest):
        raise ValueError(f"all {len(query)} queries are junk (person id {JUNK}): there is nothing to look for")
    return rest


def measures(found: Sequence[Ranks], query: Images, max_rank: int) -> dict[str, Any]:
    """Return what :func:`evaluate_reid` does.

    Args:
        found: Places for all queries.
        query: The queries.
        max_rank: Length of ``cmc``.

    Raises:
        ValueError: No query is valid.
    """
    places = np.concatenate([ranks.places for ranks in found])
    counts = np.concatenate([ranks.counts for ranks in found])
    _check_valid(len(counts), query)
    ends = np.cumsum(counts)
    starts = ends - counts
    number = np.arange(1, len(places) + 1) - np.repeat(starts, counts)
    before = np.where(places == 1, 1.0, (number - 1) / np.maximum(places - 1, 1))
    first = np.bincount(places[starts], minlength=max_rank + 1)[1 : max_rank + 1]
    return {
        "mAP": float(np.mean(np.concatenate([ranks.average_precision() for ranks in found]))),
        "mAP_trapz": float(np.mean(np.add.reduceat((before + number / places) / 2, starts) / counts)),
        "mINP": float(np.mean(counts / places[ends - 1])),
        "cmc": np.cumsum(first) / len(counts),
        "num_valid_queries": len(counts),
    }


def _check_valid(valid: int, query: Images) -> None:
    elsewhere = "" if query.camids is None else " from another camera"
    if not valid:
        raise ValueError(
            f"none of the {len(query)} queries has an image of its person{elsewhere} in the gallery: are query and "
            "gallery of one data set" + ("?" if query.camids is None else ", and are the camera ids right?")
        )
    if valid < len(query):
        text = f"{len(query) - valid} of {len(query)} queries have no image of their person{elsewhere} in the gallery"
        print_log(f"{text}: they do not count", logger="current", level=logging.WARNING)
