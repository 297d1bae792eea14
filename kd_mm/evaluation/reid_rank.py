"""Measures of person re-identification, or of any retrieval, from features."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_mm.evaluation.reid_distances import JUNK, Array, Distances, Ids, Images, k_smallest, read_images
from kd_mm.evaluation.rerank import check_options, reranked_distances
from kd_mm.utils.suggest import warn

_NONE = np.empty(0, dtype=np.int64)


def evaluate_reid(
    query_features: Any,
    gallery_features: Any,
    query_pids: Any,
    gallery_pids: Any,
    query_camids: Any,
    gallery_camids: Any,
    metric: str = "cosine",
    rerank: bool | Mapping[str, Any] | None = None,
    max_rank: int = 50,
    chunk_size: int | None = None,
) -> dict[str, Any]:
    """Measure how well queries find images of the same person in a gallery.

    The protocol is that of Market-1501 (Zheng et al., ICCV 2015): for each query, gallery images of the same person
    from the same camera and junk (person id -1) count as absent; all others are ranked by their distance, equal ones by
    their position in the gallery. Distractors (person id 0) count as wrong images, unless a query has that id. A query
    without any right image, or of junk, is left out.

    Args:
        query_features: ``(Q, D)``, an array or a tensor of any real type on any device; distances are computed on the
            CPU, in float64 for float64, else in float32.
        gallery_features: ``(G, D)``.
        query_pids: ``(Q,)`` integers.
        gallery_pids: ``(G,)``.
        query_camids: ``(Q,)`` integers; None, here and for the gallery, switches the camera rule off.
        gallery_camids: ``(G,)``.
        metric: ``"cosine"`` or ``"euclidean"``.
        rerank: None, True, or options of k-reciprocal re-ranking: ``k1`` (default 20), ``k2`` (6), ``lambda_value``
            (0.3); see :func:`kd_mm.evaluation.rerank.reranked_distances`.
        max_rank: Length of ``cmc``.
        chunk_size: Queries whose distances are held at once; default: as many as fit into 64 MiB, at least 64.

    Returns:
        ``mAP``: mean over the valid queries of ``mean_k(k / r_k)``, where ``r_k`` is the rank of the k-th right image;
        ``mAP_trapz``: the same with the trapezoids of the official Market-1501 script,
        ``mean_k(((k - 1) / (r_k - 1) + k / r_k) / 2)``, the first fraction being 1 for ``r_k = 1``; ``mINP``: mean of
        ``K / r_K`` (Ye et al., TPAMI 2021); ``cmc``: ``(max_rank,)`` float64, the share of valid queries whose first
        right image has that rank or a lower one; all of these in [0, 1]; and ``num_valid_queries``.

    Raises:
        ValueError: The input does not fit, holds NaN, or has no valid query.
    """
    if isinstance(max_rank, bool) or not isinstance(max_rank, int | np.integer) or max_rank < 1:
        raise ValueError(f"max_rank={max_rank}: give the length of the CMC curve, an integer of at least 1")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: give at least 1 query, or None")
    options = check_options(rerank)
    query, gallery = read_images(
        (query_features, query_pids, query_camids), (gallery_features, gallery_pids, gallery_camids), metric
    )
    if options is not None:
        if (query.pids == JUNK).all():
            raise ValueError(f"all {len(query)} queries are junk (person id {JUNK}): there is nothing to look for")
        query, gallery = query.without_junk(), gallery.without_junk()
    ranks = [found for _, _, part in _ranked_blocks(query, gallery, metric, options, chunk_size) for found in part]
    return _measures(ranks, query, int(max_rank))[0]


@dataclass(frozen=True)
class TopImages:
    """The nearest images of each query, and the measures of all queries.

    Attributes:
        images: ``(Q, n)`` gallery numbers, nearest first, without those that count as absent; -1 after the last one.
        distances: ``(Q, n)``, infinite after the last one.
        average_precision: ``(Q,)`` in [0, 1], NaN for a query that is not valid.
        measures: As :func:`evaluate_reid` returns them.
    """

    images: Ids
    distances: Array
    average_precision: Array
    measures: dict[str, Any]


def top_images(
    query: Images,
    gallery: Images,
    count: int = 10,
    metric: str = "cosine",
    rerank: bool | Mapping[str, Any] | None = None,
    max_rank: int = 50,
) -> TopImages:
    """Rank a gallery for each query, as :func:`evaluate_reid` does.

    Args:
        query: The queries, without junk.
        gallery: The gallery, without junk.
        count: Images of each query.
        metric: ``"cosine"`` or ``"euclidean"``.
        rerank: Options of re-ranking, or None.
        max_rank: Length of ``cmc``.

    Raises:
        ValueError: As for :func:`evaluate_reid`.
    """
    sides = [(side.features, side.pids, side.camids) for side in (query, gallery)]
    query, gallery = read_images(sides[0], sides[1], metric)
    options = check_options(rerank)
    count = min(count, len(gallery))
    images, distances = np.empty((len(query), count), dtype=np.int64), np.empty((len(query), count))
    ranks: list[Ids] = []
    for start, block, part in _ranked_blocks(query, gallery, metric, options):
        rows = slice(start, start + len(block))
        images[rows], distances[rows] = k_smallest(block, count)
        ranks.extend(part)
    images[np.isinf(distances)] = -1
    measures, average_precision = _measures(ranks, query, max_rank)
    return TopImages(images, distances, average_precision, measures)


def _ranked_blocks(
    query: Images, gallery: Images, metric: str, rerank: Mapping[str, Any] | None, chunk_size: int | None = None
) -> Iterator[tuple[int, Array, list[Ids]]]:
    """Yield the number of the first query, distances and ranks of the right images of some queries at a time.

    Distances ``(n, G)`` are infinite to images that count as absent, in memory that is reused. The ranks of each query
    ascend from 1; there are none for a query that is not valid.
    """
    if rerank is None:
        blocks = Distances(query.features, gallery.features, metric, chunk_size).blocks()
    else:
        mixed = reranked_distances(query.features, gallery.features, metric, **rerank, chunk_size=chunk_size)
        blocks = iter([(0, mixed)])
    order = np.argsort(gallery.pids, kind="stable")
    pids, first = np.unique(gallery.pids[order], return_index=True)
    images_of = dict(zip(pids.tolist(), np.split(order, first[1:]), strict=True))
    junk = images_of.pop(JUNK, _NONE)
    for start, block in blocks:
        block[:, junk] = np.inf
        ranks = []
        for i, row in enumerate(block, start):
            right = images_of.get(int(query.pids[i]), _NONE)
            if query.camids is not None and gallery.camids is not None:
                same_camera = gallery.camids[right] == query.camids[i]
                row[right[same_camera]] = np.inf
                right = right[~same_camera]
            ranks.append(_ranks(row, right) if len(right) else _NONE)
        yield start, block, ranks


def _ranks(distances: Array, right: Ids) -> Ids:
    """Return the ranks of the right images, ascending from 1; of equal distances the smaller number comes first."""
    values = distances[right]
    last = values.max()
    if not np.isfinite(last):
        raise ValueError("distances overflow: features are too large for their type; scale them down")
    # Only what comes before the last right image is sorted.
    nearer = np.sort(distances[distances <= last])
    before = nearer.searchsorted(values)
    for i in np.flatnonzero(nearer.searchsorted(values, "right") - before > 1):
        before[i] += np.count_nonzero(distances[: right[i]] == values[i])
    return np.asarray(np.sort(before) + 1)


def no_match(queries: int, cameras: bool, same_camera: bool) -> str:
    """Return one line on queries none of which has a match.

    Args:
        queries: How many there are.
        cameras: Whether images of the query's camera are left out.
        same_camera: Whether there are matches among these.
    """
    line = f"none of the {queries} queries has an image of its person{' from another camera' if cameras else ''} in the"
    if same_camera:
        return f"{line} gallery, only images from its own, which are left out: camera_rule=False measures with these"
    line += " gallery: are query and gallery of one data set"
    return (
        f"{line}, and are the camera ids right? (camera_rule=False measures without cameras)" if cameras else f"{line}?"
    )


def _measures(ranks: list[Ids], query: Images, max_rank: int) -> tuple[dict[str, Any], Array]:
    """Return all measures, and average precision ``(Q,)``, NaN for queries without right images."""
    counts = np.array([len(found) for found in ranks])
    valid, elsewhere = counts > 0, "" if query.camids is None else " from another camera"
    if not valid.any():
        raise ValueError(no_match(len(query), query.camids is not None, same_camera=False))
    if not valid.all():
        text = f"{sum(~valid)} of {len(query)} queries have no image of their person{elsewhere} in the gallery"
        warn(f"{text}: they do not count")
    joined, counts = np.concatenate(ranks), counts[valid]
    ends = np.cumsum(counts)
    starts = ends - counts
    number = np.arange(1, len(joined) + 1) - np.repeat(starts, counts)
    before = np.where(joined == 1, 1.0, (number - 1) / np.maximum(joined - 1, 1))
    first = np.bincount(joined[starts], minlength=max_rank + 1)[1 : max_rank + 1]
    average_precision = np.full(len(ranks), np.nan)
    average_precision[valid] = np.add.reduceat(number / joined, starts) / counts
    measures = {
        "mAP": float(np.mean(average_precision[valid])),
        "mAP_trapz": float(np.mean(np.add.reduceat((before + number / joined) / 2, starts) / counts)),
        "mINP": float(np.mean(counts / joined[ends - 1])),
        "cmc": np.cumsum(first) / len(counts),
        "num_valid_queries": len(counts),
    }
    return measures, average_precision
