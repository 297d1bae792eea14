"""Re-ranking against the dense algorithm, written from the equations; and query expansion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kd_mm.evaluation import ReRanking, average_query_expansion, evaluate_reid
from kd_mm.evaluation.rerank_neighbours import smallest
from tests.devices import DEVICES

from .reid_reference import (
    FORMS,
    assert_same,
    dense_rerank,
    distance_matrix,
    given_as,
    random_images,
    reranked_reference_of,
)


def reranked(query: Any, gallery: Any, *options: Any, chunk_size: int | None = None, device: str = "cpu") -> Any:
    sides = (torch.as_tensor(side).to(device) for side in (query, gallery))
    ranking = ReRanking(*sides, *options, chunk_size=chunk_size)
    return np.concatenate([block.copy() for _, block in ranking.blocks()])


def dense(query: Any, gallery: Any, metric: str, k1: int, k2: int, lambda_value: float) -> Any:
    whole = np.concatenate([query, gallery])
    return dense_rerank(distance_matrix(whole, whole, metric), k1, k2, lambda_value, len(query))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(
    "options", [(20, 6, 0.3), (5, 1, 0.0), (7, 3, 0.5), (1, 1, 0.2), (2, 12, 1.0), (200, 8, 0.1), (3, 200, 0.1)]
)
@pytest.mark.parametrize("device", DEVICES)
def test_distances(device: str, metric: str, options: tuple[int, int, float]) -> None:
    """Halves of odd k1, no expansion, and more neighbours than there are images."""
    images = random_images(len(metric) + options[0])
    query, gallery = images["query_features"], images["gallery_features"]
    found = reranked(query, gallery, metric, *options, chunk_size=13, device=device)
    np.testing.assert_allclose(found, dense(query, gallery, metric, *options), rtol=0, atol=1e-13)


@pytest.mark.parametrize("device", DEVICES)
def test_a_larger_gallery_in_single_precision(device: str) -> None:
    """Large enough that neighbours are found through groups."""
    images = random_images(3, queries=5, gallery=1195, people=60, length=16)
    query, gallery = (images[f"{side}_features"].astype(np.float32) for side in ("query", "gallery"))
    found = reranked(query, gallery, "euclidean", 6, 3, 0.3, chunk_size=100, device=device)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, dense(query, gallery, "euclidean", 6, 3, 0.3), rtol=0, atol=2e-6)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("form", FORMS)
def test_measures(form: str, seed: int, metric: str) -> None:
    """Junk is dropped before, distractors and queries without a match are neighbours as all others."""
    images = random_images(seed)
    options = {"k1": 8, "k2": 3, "lambda_value": 0.3}
    found = evaluate_reid(**given_as(form, images), metric=metric, rerank=options)
    assert_same(found, reranked_reference_of(images, metric, **options))
    assert found["mAP"] > evaluate_reid(**images, metric=metric)["mAP"]
    images.update(query_camids=None, gallery_camids=None)
    found = evaluate_reid(**given_as(form, images), metric=metric, rerank=options)
    assert_same(found, reranked_reference_of(images, metric, **options))


def test_defaults_are_those_of_the_paper() -> None:
    images = random_images(4)
    paper = {"k1": 20, "k2": 6, "lambda_value": 0.3}
    assert_same(evaluate_reid(**images, rerank={}), evaluate_reid(**images, rerank=paper), 0)
    assert_same(evaluate_reid(**images, rerank={"k2": 6}), reranked_reference_of(images, "cosine", **paper))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("device", DEVICES)
def test_copies_of_images(device: str, metric: str) -> None:
    """Of queries, of the gallery and across; more of one image than there are neighbours."""
    random = np.random.default_rng(0)
    images = random_images(5, length=64)
    pool = images["gallery_features"][:25].astype(np.float32)
    query, gallery = pool[random.integers(0, 20, 30)], pool[random.integers(0, 25, 90)]
    gallery[random.choice(90, 12, replace=False)] = pool[0]
    for options in ((6, 3, 0.3), (20, 6, 0.0)):
        found = reranked(query, gallery, metric, *options, chunk_size=17, device=device)
        np.testing.assert_allclose(found, dense(query, gallery, metric, *options), rtol=0, atol=2e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_whole_numbers_tie(device: str) -> None:
    """Distances between images that differ are equal: the image's number decides."""
    random = np.random.default_rng(2)
    query, gallery = random.integers(0, 3, (15, 4)).astype(float), random.integers(0, 3, (60, 4)).astype(float)
    found = reranked(query, gallery, "euclidean", 6, 3, 0.3, device=device)
    np.testing.assert_allclose(found, dense(query, gallery, "euclidean", 6, 3, 0.3), rtol=0, atol=1e-13)


@pytest.mark.parametrize("device", DEVICES)
def test_all_images_the_same(device: str) -> None:
    found = reranked(np.ones((3, 5)), np.ones((40, 5)), "euclidean", device=device)
    np.testing.assert_allclose(found, np.zeros((3, 40)), atol=1e-13)


@pytest.mark.parametrize("count", [1, 5, 64])
@pytest.mark.parametrize("columns", [64, 500, 4999])
def test_smallest_values_with_ties(count: int, columns: int) -> None:
    values = np.random.default_rng(count).integers(0, 40, (20, columns)).astype(np.float32)
    indices, found = smallest(values, count)
    expected = np.argsort(values, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(found, np.take_along_axis(values, expected, axis=1))


def expanded_by_hand(query: Any, gallery: Any, k: int, metric: str) -> Any:
    distances = distance_matrix(query, gallery, metric)
    if metric == "cosine":
        query, gallery = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (query, gallery))
    means = []
    for own, row in zip(query, distances, strict=True):
        nearest = sorted(range(len(gallery)), key=lambda j: (row[j], j))[:k]
        mean = (own + sum(gallery[j] for j in nearest)) / (k + 1)
        means.append(mean / np.linalg.norm(mean) if metric == "cosine" else mean)
    return np.array(means)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 5, 90])
def test_average_query_expansion(metric: str, k: int) -> None:
    images = random_images(6)
    query, gallery = images["query_features"], images["gallery_features"]
    found = average_query_expansion(query, gallery, k, metric)
    np.testing.assert_allclose(found, expanded_by_hand(query, gallery, k, metric), rtol=0, atol=1e-13)
    for device in DEVICES:
        tensor = average_query_expansion(torch.from_numpy(query).to(device), torch.from_numpy(gallery), k, metric)
        assert tensor.device.type == device
        np.testing.assert_allclose(tensor.cpu().numpy(), found, rtol=0, atol=0 if device == "cpu" else 1e-13)
        other = average_query_expansion(query, torch.from_numpy(gallery).to(device), k, metric)
        np.testing.assert_allclose(other, found, rtol=0, atol=0 if device == "cpu" else 1e-13)


def test_query_expansion_helps_here() -> None:
    images = random_images(7, gallery=300)
    kept = images["gallery_pids"] != -1
    before = evaluate_reid(**images)["mAP"]
    images["query_features"] = average_query_expansion(images["query_features"], images["gallery_features"][kept])
    assert evaluate_reid(**images)["mAP"] > before


@pytest.mark.parametrize("k", [0, 91, 2.0, True])
def test_query_expansion_of_nothing(k: Any) -> None:
    images = random_images(8)
    with pytest.raises(ValueError, match=f"k={k}: give the number of gallery features to average with, from 1 to 90"):
        average_query_expansion(images["query_features"], images["gallery_features"], k)
