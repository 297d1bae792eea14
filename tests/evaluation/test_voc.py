"""VOC average precision beside mmdet's, and beside the development kit's procedure written out."""

from __future__ import annotations

import numpy as np
import pytest

from kd_mm.evaluation import match_boxes, voc_average_precision

from .boxes import CORNERS, mmdet_ap, random_boxes, reference_voc, rows


@pytest.mark.parametrize("seed", range(25))
def test_agrees_with_mmdet(seed: int) -> None:
    detections, objects = random_boxes(seed, whole=seed % 3 == 0, objects=2 if seed % 5 == 0 else 8)
    voc = voc_average_precision(match_boxes(detections, objects, 3))
    for mode, mine in (("11points", voc.ap07), ("area", voc.ap12)):
        mean, theirs = mmdet_ap(detections, objects, 3, mode)
        np.testing.assert_allclose(mine, theirs, atol=1e-6)  # theirs is in float32
        np.testing.assert_allclose(np.nanmean(mine), mean, atol=1e-6)


@pytest.mark.parametrize("name", CORNERS)
def test_agrees_with_mmdet_in_the_corners(name: str) -> None:
    detections, objects = CORNERS[name]
    voc = voc_average_precision(match_boxes(detections, objects, 3))
    for mode, mine in (("11points", voc.ap07), ("area", voc.ap12)):
        np.testing.assert_allclose(mine, mmdet_ap(detections, objects, 3, mode)[1], atol=1e-6)


@pytest.mark.parametrize("name", CORNERS)
@pytest.mark.parametrize("inclusive", [True, False])
def test_follows_the_development_kit_in_the_corners(name: str, inclusive: bool) -> None:
    detections, objects = CORNERS[name]
    voc = voc_average_precision(match_boxes(detections, objects, 3, inclusive))
    expected = [reference_voc(detections, objects, label, inclusive=inclusive) for label in range(3)]
    np.testing.assert_allclose(np.stack([voc.ap07, voc.ap12], axis=1), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_ties_keep_the_order_of_images_and_detections(seed: int) -> None:
    detections, objects = random_boxes(seed, ties=True, whole=seed % 2 == 0)
    iou, inclusive = (0.5, 0.3, 0.75)[seed % 3], seed % 4 < 2
    voc = voc_average_precision(match_boxes(detections, objects, 3, inclusive, min_iou=0.3), iou)
    expected = [reference_voc(detections, objects, label, iou, inclusive) for label in range(3)]
    np.testing.assert_allclose(np.stack([voc.ap07, voc.ap12], axis=1), expected, atol=1e-12)


def test_the_known_answer_of_a_small_case() -> None:
    """Two of four objects found, at ranks 1 and 3: precision 1 up to recall 1/4, 2/3 up to 1/2."""
    truth = [rows(*((100 * i, 0, 100 * i + 50, 50, 0, 0) for i in range(4)))]
    found = [rows((0, 0, 50, 50, 0.9, 0), (700, 0, 750, 50, 0.8, 0), (100, 0, 150, 50, 0.7, 0))]
    voc = voc_average_precision(match_boxes(found, truth, 1))
    assert voc.ap07[0] == pytest.approx((3 * 1 + 3 * 2 / 3) / 11, abs=1e-15)
    assert voc.ap12[0] == pytest.approx((1 + 2 / 3) / 4, abs=1e-15)
    curve = voc.curve(0)
    assert curve.recall.tolist() == [0.25, 0.25, 0.5]
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(curve.scores, [0.9, 0.8, 0.7], rtol=1e-6)


def test_counts_leave_difficult_objects_out() -> None:
    detections, objects = CORNERS["a difficult object beside another"]
    voc = voc_average_precision(match_boxes(detections, objects, 3))
    assert voc.objects.tolist() == [2, 0, 0]
    assert voc.detections.tolist() == [4, 0, 0]
    assert voc.found.tolist() == [1, 0, 0]
    np.testing.assert_allclose(voc.curve(0).scores, [0.7, 0.6], rtol=1e-6)  # two lie on the difficult object


def test_more_images_than_sixteen_bits_count() -> None:
    """Images are sorted another way when there are many."""
    found, truth = rows((0, 0, 9, 9, 0.5, 0)), rows((0, 0, 9, 9, 0, 0))
    empty = rows()
    detections, objects = [found, *[empty] * 70_000, found], [truth, *[empty] * 70_000, truth]
    assert voc_average_precision(match_boxes(detections, objects, 1)).ap12[0] == 1.0


def test_a_crowd_of_pairs_is_measured_in_pieces() -> None:
    random = np.random.default_rng(0)
    corner = random.uniform(0, 300, (600, 2))
    boxes = np.hstack([corner, corner + 30])
    truth = np.hstack([boxes, np.zeros((600, 2))])
    found = np.hstack([boxes, random.random((600, 1)), np.zeros((600, 1))])
    table = match_boxes([found, found], [truth, truth], 1)  # 720,000 pairs
    assert voc_average_precision(table).ap12[0] == 1.0
    assert (np.diff(table.pair_detections) >= 0).all()


def test_what_does_not_fit_is_one_line() -> None:
    table = match_boxes([rows()], [rows()], 1)
    with pytest.raises(ValueError, match=r"iou=0.3, but the match table was made with min_iou=0.5"):
        voc_average_precision(table, 0.3)
    with pytest.raises(ValueError, match="detections of 1 images, objects of 0"):
        match_boxes([rows()], [], 1)
    with pytest.raises(ValueError, match="detections of class 0 to 3, but num_classes=3"):
        match_boxes([rows((0, 0, 1, 1, 0.5, 3), (0, 0, 1, 1, 0.5, 0))], [rows()], 3)
