"""VOC and COCO average precision against the development kit's procedure and pycocotools."""

import numpy as np
import pytest

from kd_mm.evaluation import detection_ap
from tests.helpers.boxes import CORNERS, Boxes, pycocotools_of, random_boxes, reference_voc, rows

SUMMARY = ["mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
SUMMARY += ["AR@1", "AR@10", "AR@100", "AR_small", "AR_medium", "AR_large"]
CASES = {
    **CORNERS,
    **{str(seed): random_boxes(seed, integer=seed % 3 == 0, objects=2 + 6 * (seed % 2)) for seed in range(4)},
    **{f"ties {seed}": random_boxes(seed, ties=True, integer=seed % 2 == 0) for seed in range(4)},
}


def compare_with_pycocotools(detections: Boxes, objects: Boxes, classes: int = 3) -> None:
    found = detection_ap(detections, objects, classes)
    expected = pycocotools_of(detections, objects, classes)
    assert list(found.coco_summary) == SUMMARY
    np.testing.assert_allclose(np.nan_to_num(list(found.coco_summary.values()), nan=-1.0), expected.stats, atol=1e-12)
    precision = expected.eval["precision"][..., 2].mean(axis=1)  # (T, K, A)
    np.testing.assert_allclose(np.nan_to_num(found.coco, nan=-1.0).transpose(2, 0, 1), precision, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_pycocotools_and_the_development_kit(name: str) -> None:
    detections, objects = CASES[name]
    compare_with_pycocotools(detections, objects)
    for iou, inclusive in ((0.5, True), (0.3, False)):
        found = detection_ap(detections, objects, 3, iou, inclusive)
        expected = [reference_voc(detections, objects, label, iou, inclusive) for label in range(3)]
        np.testing.assert_allclose(np.stack([found.voc07, found.voc12], axis=1), expected, atol=1e-12)


def test_coco_agrees_with_pycocotools_on_crowded_images() -> None:
    """Every detection has several objects to choose from, and every object several detections."""
    random = np.random.default_rng(0)

    def boxes(count: int, *columns: np.ndarray) -> np.ndarray:
        corner = random.uniform(0, 40, (count, 2)).round()
        return np.column_stack([corner, corner + random.integers(20, 40, (count, 2)), *columns]).astype(np.float32)

    objects = [boxes(40, np.zeros(40), random.random(40) < 0.2) for _ in range(3)]
    detections = [boxes(130, random.random(130).round(1), np.zeros(130)) for _ in range(3)]
    compare_with_pycocotools(detections, objects, classes=1)


def test_voc_by_hand() -> None:
    """Two of four objects found, at ranks 1 and 3: precision 1 up to recall 1/4, 2/3 up to 1/2."""
    truth = [rows(*((100 * i, 0, 100 * i + 50, 50, 0, 0) for i in range(4)))]
    boxes = [rows((0, 0, 50, 50, 0.9, 0), (700, 0, 750, 50, 0.8, 0), (100, 0, 150, 50, 0.7, 0))]
    found = detection_ap(boxes, truth, 1)
    assert found.voc07[0] == pytest.approx((3 * 1 + 3 * 2 / 3) / 11, abs=1e-15)
    assert found.voc12[0] == pytest.approx((1 + 2 / 3) / 4, abs=1e-15)


def test_coco_by_hand_with_difficult_objects() -> None:
    truth = [rows((0, 0, 100, 100, 0, 1), (0, 0, 20, 20, 0, 0))]
    inside = [(0, 0, 40, 40, 0.9, 0), (50, 50, 90, 90, 0.8, 0), (60, 60, 140, 100, 0.7, 0)]
    boxes = [rows(*inside, (0, 0, 20, 20, 0.6, 0))]
    assert detection_ap(boxes, truth, 1).coco_summary["AP50"] == pytest.approx(1.0)
    half_outside = rows(*inside, (80, 80, 140, 140, 0.95, 0), (0, 0, 20, 20, 0.6, 0))
    assert detection_ap([half_outside], truth, 1).coco_summary["AP50"] == pytest.approx(0.5)
    found = detection_ap(*CORNERS["a difficult object beside another"], 3)
    assert (found.objects.tolist(), found.ignored.tolist()) == ([2, 0, 0], [1, 0, 0])
    assert (found.detections.tolist(), found.found.tolist()) == ([4, 0, 0], [1, 0, 0])


def test_wrong_input_raises_one_line() -> None:
    with pytest.raises(ValueError, match="detections of 1 images, objects of 0"):
        detection_ap([rows()], [], 1)
    with pytest.raises(ValueError, match="detections of class 0 to 3, but num_classes=3"):
        detection_ap([rows((0, 0, 1, 1, 0.5, 3), (0, 0, 1, 1, 0.5, 0))], [rows()], 3)
