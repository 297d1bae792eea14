"""Re-ranking against the dense algorithm, written from the equations."""

from typing import Any

import numpy as np
import pytest

from kd_mm.evaluation import evaluate_reid
from kd_mm.evaluation.reid_distances import k_smallest
from kd_mm.evaluation.rerank import reranked_distances
from tests.helpers.reid_reference import (
    FORMS,
    assert_same,
    dense_rerank,
    distance_matrix,
    given_as,
    random_images,
    reranked_reference_of,
)


def dense(query: Any, gallery: Any, metric: str, k1: int, k2: int, lambda_value: float) -> Any:
    images = np.concatenate([query, gallery])
    return dense_rerank(distance_matrix(images, images, metric), k1, k2, lambda_value, len(query))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_distances(metric: str) -> None:
    """Halves of odd k1, no expansion, and more neighbours than there are images."""
    for options in ((20, 6, 0.3), (5, 1, 0.0), (7, 3, 0.5), (1, 1, 0.2), (2, 12, 1.0), (200, 8, 0.1), (3, 200, 0.1)):
        images = random_images(len(metric) + options[0])
        query, gallery = images["query_features"], images["gallery_features"]
        found = reranked_distances(query, gallery, metric, *options, chunk_size=13)
        np.testing.assert_allclose(found, dense(query, gallery, metric, *options), rtol=0, atol=1e-13)


def test_larger_gallery_in_float32() -> None:
    images = random_images(3, queries=5, gallery=1195, people=60, length=16)
    query, gallery = (images[f"{side}_features"].astype(np.float32) for side in ("query", "gallery"))
    found = reranked_distances(query, gallery, "euclidean", 6, 3, 0.3, chunk_size=100)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, dense(query, gallery, "euclidean", 6, 3, 0.3), rtol=0, atol=2e-6)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_measures(metric: str) -> None:
    """Junk is dropped first; distractors and queries without a match count as neighbours."""
    images = random_images(1)
    options = {"k1": 8, "k2": 3, "lambda_value": 0.3}
    expected = reranked_reference_of(images, metric, **options)
    for form in FORMS:
        assert_same(evaluate_reid(**given_as(form, images), metric=metric, rerank=options), expected)
    assert expected["mAP"] > evaluate_reid(**images, metric=metric)["mAP"]
    images.update(query_camids=None, gallery_camids=None)
    found = evaluate_reid(**images, metric=metric, rerank=options)
    assert_same(found, reranked_reference_of(images, metric, **options))


def test_defaults_are_those_of_the_paper() -> None:
    images = random_images(4)
    paper = {"k1": 20, "k2": 6, "lambda_value": 0.3}
    assert_same(evaluate_reid(**images, rerank={}), evaluate_reid(**images, rerank=paper), 0)
    assert_same(evaluate_reid(**images, rerank={"k2": 6}), reranked_reference_of(images, "cosine", **paper))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_copies_of_images(metric: str) -> None:
    """Of queries, of the gallery and across; more of one image than there are neighbours."""
    random = np.random.default_rng(0)
    images = random_images(5, length=64)
    pool = images["gallery_features"][:25].astype(np.float32)
    query, gallery = pool[random.integers(0, 20, 30)], pool[random.integers(0, 25, 90)]
    gallery[random.choice(90, 12, replace=False)] = pool[0]
    for options in ((6, 3, 0.3), (20, 6, 0.0)):
        found = reranked_distances(query, gallery, metric, *options, chunk_size=17)
        np.testing.assert_allclose(found, dense(query, gallery, metric, *options), rtol=0, atol=2e-6)


def test_ties_and_images_that_are_all_the_same() -> None:
    random = np.random.default_rng(2)
    query, gallery = random.integers(0, 3, (15, 4)).astype(float), random.integers(0, 3, (60, 4)).astype(float)
    found = reranked_distances(query, gallery, "euclidean", 6, 3, 0.3)
    np.testing.assert_allclose(found, dense(query, gallery, "euclidean", 6, 3, 0.3), rtol=0, atol=1e-13)
    found = reranked_distances(np.ones((3, 5)), np.ones((40, 5)), "euclidean")
    np.testing.assert_allclose(found, np.zeros((3, 40)), atol=1e-13)


def test_k_smallest_with_ties() -> None:
    for columns in (64, 500, 4999):
        values = np.random.default_rng(0).integers(0, 40, (20, columns)).astype(np.float32)
        order = np.argsort(values, axis=1, kind="stable")
        for count in (1, 5, 64):
            indices, found = k_smallest(values, count)
            np.testing.assert_array_equal(indices, order[:, :count])
            np.testing.assert_array_equal(found, np.take_along_axis(values, order[:, :count], axis=1))
