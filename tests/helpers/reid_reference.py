"""Retrieval measured straight from the definitions, one image after the other; and features to measure on."""

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.devices import DEVICES

#: What images can be given as: arrays, or tensors on a device.
FORMS = ["arrays", *DEVICES]
Array = NDArray[Any]


def distance_matrix(query: Array, gallery: Array, metric: str) -> Array:
    """Return distances in float64; equal features have equal distances."""
    query, gallery = query.astype(np.float64), gallery.astype(np.float64)
    if metric == "cosine":
        query = query / np.sqrt((query * query).sum(axis=1, keepdims=True))
        gallery = gallery / np.sqrt((gallery * gallery).sum(axis=1, keepdims=True))
    return np.array([((vector - gallery) ** 2).sum(axis=1) for vector in query])


def reference(
    distances: Array, qpids: Array, gpids: Array, qcams: Array | None, gcams: Array | None, max_rank: int = 50
) -> dict[str, Any]:
    """Return the measures of a distance matrix over the entire gallery, junk included."""
    ap, trapz, inp, firsts = [], [], [], []
    for i, pid in enumerate(qpids):
        ranking = sorted(range(len(gpids)), key=lambda j: (distances[i, j], j))
        hits = []
        for j in ranking:
            same_camera = qcams is not None and qcams[i] == gcams[j]
            if gpids[j] == -1 or (gpids[j] == pid and same_camera):
                continue
            hits.append(gpids[j] == pid)
        if pid == -1 or not any(hits):
            continue
        ap.append(np.mean([sum(hits[: n + 1]) / (n + 1) for n, hit in enumerate(hits) if hit]))
        trapz.append(trapezoids(hits))
        last = max(n for n, hit in enumerate(hits) if hit)
        inp.append(sum(hits) / (last + 1))
        firsts.append(hits.index(True))
    cmc = [np.mean([first <= rank for first in firsts]) for rank in range(max_rank)]
    return {
        "mAP": np.mean(ap),
        "mAP_trapz": np.mean(trapz),
        "mINP": np.mean(inp),
        "cmc": np.array(cmc),
        "num_valid_queries": len(ap),
    }


def trapezoids(hits: list[Any]) -> float:
    """Walk down the ranking and add the trapezoids between recalls, as the official Market-1501 evaluation does."""
    area, recall, precision, found = 0.0, 0.0, 1.0, 0
    for n, hit in enumerate(hits):
        found += bool(hit)
        now_recall, now_precision = found / sum(hits), found / (n + 1)
        area += (now_recall - recall) * (precision + now_precision) / 2
        recall, precision = now_recall, now_precision
    return area


def dense_rerank(distances: Array, k1: int, k2: int, lambda_value: float, queries: int) -> Array:
    """Return re-ranked distances ``(Q, G)``, from the equations of Zhong et al. (CVPR 2017), with dense matrices.

    ``distances`` are ``(N, N)`` squared Euclidean ones, queries first.
    """
    number = len(distances)
    scaled = distances / distances.max(axis=1, keepdims=True)
    ranking = np.argsort(scaled, axis=1, kind="stable")

    @functools.cache
    def mutual(i: int, k: int) -> frozenset[int]:
        return frozenset(int(j) for j in ranking[i, : k + 1] if i in ranking[j, : k + 1])

    weights = np.zeros((number, number))
    for i in range(number):
        near = mutual(i, k1)
        expanded = set(near)
        for j in near:
            other = mutual(j, int(np.around(k1 / 2)))
            if len(near & other) > 2 / 3 * len(other):
                expanded |= other
        for j in expanded:
            weights[i, j] = np.exp(-scaled[i, j])
        # An image with more copies than neighbours may be none of its own.
        weights[i] /= weights[i].sum() or 1
    if k2 > 1:
        weights = np.array([weights[ranking[i, :k2]].mean(axis=0) for i in range(number)])
    jaccard = np.empty((queries, number - queries))
    for i in range(queries):
        low = np.minimum(weights[i], weights[queries:]).sum(axis=1)
        jaccard[i] = 1 - low / np.maximum(weights[i], weights[queries:]).sum(axis=1)
    return (1 - lambda_value) * jaccard + lambda_value * scaled[:queries, queries:]


def random_images(
    seed: int, queries: int = 30, gallery: int = 90, people: int = 8, length: int = 12, cameras: int = 3
) -> dict[str, Array]:
    """Return features around one centre a person, with distractors (0), junk (-1) and a query without a match."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((people + 2, length))
    qpids, gpids = random.integers(1, people + 1, queries), random.integers(-1, people + 1, gallery)
    qpids[0] = 99
    noise = {"query_features": (qpids % (people + 2), queries), "gallery_features": (gpids, gallery)}
    features = {
        name: centres[pids] + 0.9 * random.standard_normal((count, length)) for name, (pids, count) in noise.items()
    }
    return {
        **features,
        "query_pids": qpids,
        "gallery_pids": gpids,
        "query_camids": random.integers(1, cameras + 1, queries),
        "gallery_camids": random.integers(1, cameras + 1, gallery),
    }


def given_as(form: str, images: dict[str, Any]) -> dict[str, Any]:
    """Return features and ids in one of the forms."""
    if form == "arrays":
        return images
    return {name: None if value is None else torch.from_numpy(value).to(form) for name, value in images.items()}


def reference_of(images: dict[str, Any], metric: str = "cosine", max_rank: int = 50) -> dict[str, Any]:
    """Return the measures of images as :func:`kd_mm.evaluation.evaluate_reid` takes them."""
    distances = distance_matrix(images["query_features"], images["gallery_features"], metric)
    names = "query_pids", "gallery_pids", "query_camids", "gallery_camids"
    return reference(distances, *(images[name] for name in names), max_rank)


def reranked_reference_of(images: dict[str, Any], metric: str, k1: int, k2: int, lambda_value: float) -> dict[str, Any]:
    """Return the measures after dense re-ranking; junk is dropped before."""
    kept = images["gallery_pids"] != -1
    queries = len(images["query_pids"])
    both = np.concatenate([images["query_features"], images["gallery_features"][kept]])
    distances = dense_rerank(distance_matrix(both, both, metric), k1, k2, lambda_value, queries)
    cameras = images["query_camids"], images["gallery_camids"]
    qcams, gcams = (None, None) if cameras[0] is None else (cameras[0], cameras[1][kept])
    return reference(distances, images["query_pids"], images["gallery_pids"][kept], qcams, gcams)


def assert_same(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-12) -> None:
    """Compare every measure."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance, err_msg=name)
