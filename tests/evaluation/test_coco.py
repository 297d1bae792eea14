"""COCO average precision and recall beside pycocotools, on the very files that kd_mm writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kd_mm.evaluation import coco_average_precision, match_boxes, write_coco_json
from kd_mm.evaluation.detection_samples import ImageBoxes

from .boxes import CORNERS, Boxes, pycocotools_of, random_boxes, rows

SUMMARY = ["mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
SUMMARY += ["AR@1", "AR@10", "AR@100", "AR_small", "AR_medium", "AR_large"]


def compare(detections: Boxes, objects: Boxes, folder: Path, classes: int = 3) -> None:
    result = coco_average_precision(match_boxes(detections, objects, classes))
    images = [ImageBoxes(f"{i}.jpg", *boxes) for i, boxes in enumerate(zip(detections, objects, strict=True))]
    truth, found = write_coco_json(images, [f"class {i}" for i in range(classes)], str(folder / "boxes"))
    theirs = pycocotools_of(Path(truth), Path(found))
    summary = result.summary()
    assert list(summary) == SUMMARY
    np.testing.assert_allclose(np.nan_to_num(list(summary.values()), nan=-1.0), theirs.stats, atol=1e-12)
    per_class = theirs.eval["precision"][..., 2].mean(axis=1)  # (T, K, A)
    np.testing.assert_allclose(np.nan_to_num(result.ap, nan=-1.0).transpose(2, 0, 1), per_class, atol=1e-12)
    recall = theirs.eval["recall"]
    np.testing.assert_allclose(np.nan_to_num(result.recall, nan=-1.0).transpose(2, 0, 1), recall[..., 2], atol=1e-12)
    few = np.nan_to_num(result.recall_few, nan=-1.0).transpose(2, 0, 1)
    np.testing.assert_allclose(few, recall[:, :, 0, :2], atol=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_agrees_with_pycocotools(seed: int, tmp_path: Path) -> None:
    few = seed % 5 == 0
    compare(*random_boxes(seed, ties=seed % 2 == 1, whole=seed % 3 == 0, objects=2 if few else 8), tmp_path)


@pytest.mark.parametrize("name", CORNERS)
def test_agrees_with_pycocotools_in_the_corners(name: str, tmp_path: Path) -> None:
    compare(*CORNERS[name], tmp_path)


def test_agrees_with_pycocotools_in_a_crowd(tmp_path: Path) -> None:
    """Every detection has several objects to choose from, and every object several detections."""
    random = np.random.default_rng(0)
    detections, objects = [], []
    for _ in range(3):
        corner = random.uniform(0, 40, (40, 2)).round()
        truth = np.hstack(
            [corner, corner + random.integers(20, 40, (40, 2)), np.zeros((40, 1)), random.random((40, 1)) < 0.2]
        )
        corner = random.uniform(0, 40, (130, 2)).round()
        found = np.hstack(
            [corner, corner + random.integers(20, 40, (130, 2)), random.random((130, 1)).round(1), np.zeros((130, 1))]
        )
        detections.append(found.astype(np.float32))
        objects.append(truth.astype(np.float32))
    compare(detections, objects, tmp_path, classes=1)


def test_any_number_of_detections_may_lie_on_a_difficult_object() -> None:
    """They count for nothing, by the share of the detection that the object covers; a free object goes first."""
    truth = [rows((0, 0, 100, 100, 0, 1), (0, 0, 20, 20, 0, 0))]
    inside = [(0, 0, 40, 40, 0.9, 0), (50, 50, 90, 90, 0.8, 0), (60, 60, 140, 100, 0.7, 0)]
    found = [rows(*inside, (0, 0, 20, 20, 0.6, 0))]
    assert coco_average_precision(match_boxes(found, truth, 1)).summary()["AP50"] == pytest.approx(1.0)
    half_outside = rows(*inside, (80, 80, 140, 140, 0.95, 0), (0, 0, 20, 20, 0.6, 0))
    assert coco_average_precision(match_boxes([half_outside], truth, 1)).summary()["AP50"] == pytest.approx(0.5)


def test_a_table_without_the_pairs_of_one_half_is_refused() -> None:
    with pytest.raises(ValueError, match=r"made with min_iou=0.6: COCO needs 0.5 or less"):
        coco_average_precision(match_boxes([rows()], [rows()], 1, min_iou=0.6))
