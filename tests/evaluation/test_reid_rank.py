"""Measures of retrieval against loops over the definitions; and what is refused."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from kd_mm.evaluation import evaluate_reid
from kd_mm.evaluation.reid_distances import Distances, Images
from kd_mm.evaluation.reid_rank import top_images
from tests.devices import DEVICES
from tests.helpers.reid_reference import FORMS, assert_same, given_as, random_images, reference, reference_of

from ..helpers.errors import assert_refused

HAND = {
    "query_features": np.array([[0.0], [10.0]]),
    # Of person 1: right at ranks 1 and 4; of person 2: right at rank 2.
    "gallery_features": np.array([[1.0], [0.5], [2.0], [3.0], [4.0], [9.0], [8.0]]),
    "query_pids": np.array([1, 2]),
    "gallery_pids": np.array([1, 1, 0, -1, 1, 3, 2]),
    "query_camids": np.array([1, 1]),
    "gallery_camids": np.array([2, 1, 2, 2, 2, 2, 2]),
}


def test_by_hand() -> None:
    """Person 1's picture from camera 1 and the junk do not count; the distractor does."""
    found = evaluate_reid(**HAND, metric="euclidean", max_rank=4)
    assert list(found) == ["mAP", "mAP_trapz", "mINP", "cmc", "num_valid_queries"]
    assert found["mAP"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    assert found["mAP_trapz"] == pytest.approx(((1 + (1 / 2 + 2 / 3) / 2) / 2 + (0 + 1 / 2) / 2) / 2)
    assert found["mINP"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["cmc"].tolist() == [0.5, 1.0, 1.0, 1.0]
    assert found["num_valid_queries"] == 2
    assert [type(found[key]) for key in found] == [float, float, float, np.ndarray, int]


def test_measures_of_random_features() -> None:
    for metric in ("cosine", "euclidean"):
        images = random_images(0)
        assert_same(evaluate_reid(**images, metric=metric), reference_of(images, metric))
        images.update(query_camids=None, gallery_camids=None)
        assert_same(evaluate_reid(**images, metric=metric), reference_of(images, metric))
    for max_rank in (1, 10, 500):
        images = random_images(1)
        found = evaluate_reid(**images, max_rank=max_rank)
        assert_same(found, reference_of(images, max_rank=max_rank))
        assert found["cmc"].shape == (max_rank,)
    images = random_images(7)
    images["query_pids"][3:6], images["query_pids"][6] = 0, -1
    expected = reference_of(images)
    assert_same(evaluate_reid(**images), expected)
    assert expected["num_valid_queries"] == 28
    images = random_images(1)
    images["gallery_features"][5] = 0
    assert_same(evaluate_reid(**images, metric="euclidean"), reference_of(images, "euclidean"))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_are_ordered_by_gallery_number(metric: str, dtype: Any) -> None:
    """Few integers, so that most distances have equals: also between features that differ."""
    random = np.random.default_rng(0)
    images = random_images(4, queries=40, gallery=150)
    for name in ("query_features", "gallery_features"):
        images[name] = random.integers(0, 3, (len(images[name]), 3)).astype(dtype)
        images[name][~images[name].any(axis=1)] = 1
    query, gallery = images["query_features"].astype(float), images["gallery_features"].astype(float)
    if metric == "cosine":
        # Sorts as 1 - cos does; exact, for there are no roots: cos(q, g)^2 * |q|^2, and no product is negative.
        distances = -((query @ gallery.T) ** 2 / (gallery**2).sum(axis=1))
    else:
        distances = ((query[:, None] - gallery) ** 2).sum(axis=2)
    names = "query_pids", "gallery_pids", "query_camids", "gallery_camids"
    expected = reference(distances, *(images[name] for name in names))
    for form in FORMS:
        assert_same(evaluate_reid(**given_as(form, images), metric=metric), expected)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_copies_of_an_image_tie(metric: str) -> None:
    """However a library sums at the border of a matrix, the same feature has the same distance."""
    random = np.random.default_rng(1)
    images = random_images(5, queries=20, gallery=157, length=333)
    gallery = random.standard_normal((9, 333)).astype(np.float32)[random.integers(0, 9, 157)]
    images["query_features"] = images["query_features"].astype(np.float32)
    images["gallery_features"] = gallery
    for form, chunk_size in itertools.product(FORMS, (None, 7)):
        found = evaluate_reid(**given_as(form, images), metric=metric, chunk_size=chunk_size)
        assert_same(found, reference_of(images, metric), tolerance=1e-12)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_forms_of_the_input(metric: str) -> None:
    """Tensors, lists, other types and byte orders, views, read-only memory, gradients."""
    images = random_images(8)
    for name in ("query_features", "gallery_features"):
        images[name] = (16 * images[name]).round() / 16  # the same number in every type below
    expected = evaluate_reid(**images, metric=metric)

    def same(convert: Any, tolerance: float = 0.0) -> None:
        given = {name: convert(value) for name, value in images.items()}
        assert_same(evaluate_reid(**given, metric=metric), expected, tolerance)

    def tensors(device: str, dtype: torch.dtype) -> Any:
        return lambda array: torch.from_numpy(array).to(device, dtype if array.dtype.kind == "f" else None)

    def frozen(array: Any) -> Any:
        array = array.copy()
        array.setflags(write=False)
        return array

    same(torch.from_numpy)
    same(lambda array: array.tolist())
    same(frozen)
    same(lambda array: array.astype(array.dtype.newbyteorder(">")))
    same(lambda array: np.repeat(array, 2, axis=0)[::2])
    same(lambda array: array[::-1].copy()[::-1])
    same(lambda array: torch.from_numpy(array.astype(np.float32)).requires_grad_())
    for device in DEVICES:
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            same(tensors(device, dtype))
        for name in ("query_features", "gallery_features"):
            mixed = {**images, name: torch.from_numpy(images[name]).to(device)}
            assert_same(evaluate_reid(**mixed, metric=metric), expected, 0)


def test_inputs_are_not_changed() -> None:
    images = random_images(9)
    copies = {name: value.copy() for name, value in images.items()}
    evaluate_reid(**images, metric="euclidean")
    evaluate_reid(**images, rerank={})
    for name, value in copies.items():
        np.testing.assert_array_equal(images[name], value)


@pytest.mark.parametrize("rerank", [None, True])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_size_of_the_chunks(metric: str, rerank: Any) -> None:
    for form in FORMS:
        images = given_as(form, random_images(10))
        expected = evaluate_reid(**images, metric=metric, rerank=rerank)
        for chunk_size in (1, 7, 30, 1000):
            assert_same(evaluate_reid(**images, metric=metric, rerank=rerank, chunk_size=chunk_size), expected)


def test_memory_does_not_grow_with_the_number_of_queries() -> None:
    random = np.random.default_rng(0)
    rows, columns = random.random((5000, 2), dtype=np.float32), random.random((4000, 2), dtype=np.float32)
    sizes = [len(block) for _, block in Distances(rows, columns, "euclidean").blocks()]
    assert sum(sizes) == 5000
    assert max(sizes) * 4000 * 4 <= 2**26
    assert Distances(rows, random.random((300_000, 2), dtype=np.float32), "cosine").chunk_size == 64


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_and_tf32_change_nothing(device: str) -> None:
    images = {name: value.astype(np.float32) for name, value in random_images(11, length=256).items()}
    images = {name: value.astype(np.int64) if name.endswith("ids") else value for name, value in images.items()}
    images = given_as(device, images)
    expected = evaluate_reid(**images, rerank={})
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast(device, dtype=torch.bfloat16), torch.inference_mode():
            assert_same(evaluate_reid(**images, rerank={}), expected, 0)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("rerank", [None, {"k1": 6, "k2": 3}])
def test_top_images(rerank: Any) -> None:
    images = random_images(14)
    images["gallery_pids"][images["gallery_pids"] == -1] = 0
    sides = [
        Images(*(images[f"{side}_{name}"] for name in ("features", "pids", "camids"))) for side in ("query", "gallery")
    ]
    top = top_images(*sides, count=200, rerank=rerank, max_rank=20)
    assert_same(top.measures, evaluate_reid(**images, rerank=rerank, max_rank=20), 0)
    assert top.measures["mAP"] == pytest.approx(np.nanmean(top.average_precision), abs=1e-12)
    assert np.flatnonzero(np.isnan(top.average_precision)).tolist() == [0]
    for i, (row, distances) in enumerate(zip(top.images, top.distances, strict=True)):
        pids, cameras = images["gallery_pids"], images["gallery_camids"]
        absent = (pids == images["query_pids"][i]) & (cameras == images["query_camids"][i])
        assert sorted(row[row >= 0]) == np.flatnonzero(~absent).tolist()
        assert (np.diff(distances[row >= 0]) >= 0).all()
        assert np.isinf(distances[row < 0]).all()


@pytest.mark.parametrize("form", FORMS)
def test_features_of_any_size(form: str) -> None:
    """Their squares leave the range of float32."""
    for scale in (1e-30, 1e30):
        for metric in ("cosine", "euclidean"):
            images = random_images(12)
            images["query_features"] = (scale * images["query_features"]).astype(np.float32)
            images["gallery_features"] = (scale * images["gallery_features"]).astype(np.float32)
            assert_same(evaluate_reid(**given_as(form, images), metric=metric), reference_of(images, metric))


@pytest.mark.parametrize("form", FORMS)
def test_features_far_from_zero(form: str) -> None:
    """The expanded square would lose the differences in the rounding of their large common part."""
    images = random_images(13, length=64)
    for name in ("query_features", "gallery_features"):
        images[name] = (images[name] + 3000).astype(np.float32)
    assert_same(evaluate_reid(**given_as(form, images), metric="euclidean"), reference_of(images, "euclidean"))


def test_queries_without_a_match_and_of_one_camera_only(warnings: list[str]) -> None:
    assert evaluate_reid(**random_images(0))["num_valid_queries"] == 29
    assert warnings == [
        "1 of 30 queries have no image of their person from another camera in the gallery: they do not count"
    ]
    images = random_images(3)
    images["query_camids"][:] = 1
    assert_same(evaluate_reid(**images), reference_of(images))
    images["gallery_camids"][:] = 2
    assert_same(evaluate_reid(**images), reference_of({**images, "query_camids": None, "gallery_camids": None}))
    images["gallery_camids"][:] = 1
    assert_refused("none of the 30 queries has an image of its person from another camera in", evaluate_reid, **images)


def with_nan(features: Any, *rows: int) -> Any:
    features = features.copy()
    features[list(rows), 1] = np.nan
    return features


IMAGES = random_images(0)
QUERY, GALLERY = IMAGES["query_features"], IMAGES["gallery_features"]


def test_wrong_input_raises_one_line() -> None:
    for changes, message in (
        (
            {"query_features": with_nan(QUERY, 4)},
            r"1 of 30 query features hold NaN or infinity, the first being number 4: has",
        ),
        (
            {"gallery_features": with_nan(GALLERY, 7, 9)},
            r"2 of 90 gallery features hold NaN or infinity, the first being number 7: has the model diverged\?",
        ),
        ({"gallery_features": np.full_like(GALLERY, np.inf)}, "90 of 90 gallery features hold NaN or infinity"),
        ({"gallery_features": GALLERY * (np.arange(90) != 8)[:, None]}, "gallery feature 8 is all zero"),
        (
            {"query_features": np.zeros((30, 0)), "gallery_features": np.zeros((90, 0))},
            r"query features have shape \(30, 0\)",
        ),
        ({"query_features": QUERY[:, :5]}, "query features have 5 values, gallery features 12: take both from the sam"),
        ({"query_features": QUERY[0]}, r"query features have shape \(12,\): give a matrix, one row an image"),
        ({"query_features": [[1, 2], [3]]}, "query features are no matrix of numbers"),
        ({"query_features": np.full((30, 12), "a")}, "query features are no matrix of numbers"),
        ({"query_features": QUERY + 1j}, "query features are no matrix of numbers: they are complex"),
        (
            {"gallery_features": GALLERY[:0], "gallery_pids": [], "gallery_camids": []},
            r"gallery features have shape \(0, 12\)",
        ),
        ({"query_features": QUERY[:0], "query_pids": [], "query_camids": []}, r"query features have shape \(0, 12\)"),
        ({"query_pids": IMAGES["query_pids"][1:]}, r"30 query features, but person ids of shape \(29,\): give one per"),
        ({"gallery_pids": IMAGES["gallery_pids"][:, None]}, r"90 gallery features, but person ids of shape \(90, 1\)"),
        ({"gallery_camids": [1, 2]}, r"90 gallery features, but camera ids of shape \(2,\): give one camera id for"),
        ({"gallery_camids": None}, "the gallery have no camera ids: give camera ids of both, or None for both"),
        ({"query_pids": np.full(30, 1.5)}, "query person ids are not all integers: "),
        ({"query_pids": np.full(30, np.nan)}, "query person ids are not all integers: "),
        ({"query_pids": ["a"] * 30}, "query person ids are not all integers: "),
        ({"gallery_pids": np.full(90, -1)}, r"all 90 images of the gallery are junk \(person id -1\)"),
        ({"query_pids": np.full(30, -1), "rerank": {}}, r"all 30 queries are junk \(person id -1\)"),
        ({"query_pids": np.full(30, -1)}, "none of the 30 queries has an image of its person from another camera"),
        ({"query_pids": np.full(30, 77)}, r"none of the 30 queries .* are query and gallery of one data set, and are"),
        (
            {"query_pids": np.full(30, 77), "query_camids": None, "gallery_camids": None},
            r"none of the 30 queries has an image of its person in the gallery: are .* of one data set\?$",
        ),
        ({"metric": "euclidian"}, r"metric='euclidian' is unknown; .*; did you mean 'euclidean'\?"),
        ({"metric": None}, "metric=None is unknown"),
        ({"max_rank": 0}, "max_rank=0: give the length of the CMC curve, an integer of at least 1"),
        ({"max_rank": 2.5}, "max_rank=2.5: give the length of the CMC curve"),
        ({"chunk_size": 0}, "chunk_size=0: give at least 1 query, or None"),
        ({"rerank": 3}, "rerank=3: give True, False or a dict such as {'k1': 20, 'k2': 6, 'lambda_value': 0.3}"),
        ({"rerank": {"lamda_value": 0.3}}, r"rerank has no option 'lamda_value', did you mean 'lambda_value'\?"),
        ({"rerank": {"x": 0.3}}, "rerank has no option 'x'; there are: k1, k2, lambda_value"),
        ({"rerank": {"k1": 0}}, "rerank: k1=0: give a number of neighbours, at least 1"),
        ({"rerank": {"k2": 1.5}}, "rerank: k2=1.5: give a number of neighbours, at least 1"),
        ({"rerank": {"lambda_value": 2}}, "rerank: lambda_value=2: give the share of the distance, from 0 to 1"),
    ):
        assert_refused(message, evaluate_reid, **{**IMAGES, **changes})
