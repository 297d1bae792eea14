"""The registered metric, as mmengine's evaluator runs it."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData

import kd_mm  # noqa: F401 - registers everything
from kd_mm.evaluation import DetectionMetric, detection_ap
from tests.helpers.boxes import Boxes, data_sample, pycocotools_of, random_boxes, rows
from tests.helpers.processes import evaluate_share, in_group

from ..helpers.errors import assert_refused

CLASSES = ("cat", "dog", "tree frog")
KEYS = ["voc07/mAP", "voc12/mAP", "coco/mAP", "coco/AP50", "coco/AP75", "coco/AP_small", "coco/AP_medium"]
KEYS += ["coco/AP_large"]


def path(i: int, year: int = 2007) -> str:
    return f"data/VOCdevkit/VOC{year}/JPEGImages/{i:06d}.jpg"


def samples(detections: Boxes, objects: Boxes) -> list[Any]:
    return [data_sample(*boxes, path(i)) for i, boxes in enumerate(zip(detections, objects, strict=True))]


def evaluate(given: list[Any], *others: dict[str, Any], classes: Any = CLASSES, **options: Any) -> dict[str, float]:
    evaluator = Evaluator([{"type": "kd_mm.DetectionMetric", **options}, *others])
    evaluator.dataset_meta = {"classes": classes}
    for start in range(0, len(given), 2):
        evaluator.process(given[start : start + 2])
    return evaluator.evaluate(len(given))


def test_agrees_with_mmdet_and_pycocotools() -> None:
    boxes = random_boxes(3)
    given = samples(*boxes)
    upstream = {"type": "mmdet.VOCMetric", "prefix": "eleven"}, {"type": "mmdet.VOCMetric", "eval_mode": "area"}
    metrics = evaluate(given, *upstream)
    assert list(metrics)[: len(KEYS)] == KEYS
    assert all(type(metrics[key]) is float for key in KEYS)
    assert metrics["voc07/mAP"] == pytest.approx(100 * metrics["eleven/mAP"], abs=1e-4)
    assert metrics["voc12/mAP"] == pytest.approx(100 * metrics["pascal_voc/mAP"], abs=1e-4)
    stats = pycocotools_of(*boxes, len(CLASSES)).stats
    expected = [-1.0 if value == -1 else 100 * value for value in stats[:6]]
    np.testing.assert_allclose([metrics[key] for key in KEYS[2:]], expected, atol=1e-10)


def test_table(messages: list[str]) -> None:
    detections, objects = random_boxes(3, images=3)
    given = samples(detections, objects)
    given[2].set_metainfo({"img_path": path(2, 2012)})
    metrics = evaluate(given)
    table = next(text for text in messages if "Detection on" in text)
    assert "Detection on VOC2007 (2 images) + VOC2012 (1 image); 3 classes: cat, dog, tree frog" in table
    cells = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in table.splitlines() if line.startswith("|")}
    assert [name for name in cells if not name.startswith("-")] == ["class", *CLASSES, "mean"]
    average = detection_ap(detections, objects, 3).coco_summary
    mean = [cell.strip() for cell in cells["mean"]]
    assert mean[4:] == [
        f"{metrics['voc07/mAP']:.2f}",
        f"{metrics['voc12/mAP']:.2f}",
        *(f"{100 * average[key]:.2f}" for key in ("mAP", "AP50", "AP75")),
    ]
    assert not [line for line in table.splitlines() if len(line) > 200]


def test_classwise_numbers_average_to_the_mean_and_no_object_is_warned_of(messages: list[str]) -> None:
    metrics = evaluate(samples(*random_boxes(4, images=12)), classwise=True)
    for measure in ("voc07", "voc12", "coco"):
        each = [metrics[f"{measure}/AP_{name}"] for name in CLASSES]
        assert np.mean(each) == pytest.approx(metrics[f"{measure}/mAP"], abs=1e-10)
    metrics = evaluate(samples([rows((0, 0, 9, 9, 0.5, 0))], [rows()]))
    assert set(metrics.values()) == {-1.0}
    assert [text for text in messages if "no object to find in 1 images: do the class names" in text]


def test_stores_the_boxes_alone() -> None:
    class Heavy:
        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("the sample is copied")

    metric = DetectionMetric()
    metric.dataset_meta = {"classes": CLASSES}
    (boxes,), (truth,) = random_boxes(1, images=1)
    sample = {**data_sample(boxes, truth, path(0)).to_dict(), "masks": Heavy(), "img_path": path(0)}
    metric.process(None, [sample])
    (image,) = metric.results
    objects = image.objects
    assert image.name == path(0)
    np.testing.assert_array_equal(image.detections, boxes)
    assert sorted(map(tuple, objects.tolist())) == sorted(map(tuple, truth.tolist()))
    assert objects[:, 5].tolist() == sorted(objects[:, 5].tolist())
    copy.deepcopy(metric.results)


def test_boxes_in_low_precision_and_annotations_as_instances() -> None:
    """bfloat16, which numpy does not know; and annotations where ``CocoMetric`` reads them."""
    sample = data_sample(rows((8, 8, 24, 24, 0.5, 1)), rows(), path(0))
    found = sample.pred_instances
    sample.pred_instances = InstanceData(
        bboxes=found.bboxes.bfloat16(), scores=found.scores.bfloat16(), labels=found.labels
    )
    del sample.gt_instances, sample.ignored_instances
    instances = [
        {"bbox": [8, 8, 24, 24], "bbox_label": 1, "ignore_flag": 0},
        {"bbox": [50, 50, 90, 90], "bbox_label": 1, "ignore_flag": 1},
    ]
    sample.set_metainfo({"instances": instances})
    metrics = evaluate([sample])
    assert (metrics["voc07/mAP"], metrics["coco/mAP"]) == (pytest.approx(100), pytest.approx(100))
    assert metrics["coco/AP_large"] == -1.0


def broken(**changes: Any) -> Any:
    boxes = {"found": rows((0, 0, 9, 9, 0.5, 0)), "truth": rows((0, 0, 9, 9, 0, 0)), **changes}
    return data_sample(boxes["found"], boxes["truth"], path(7))


def test_wrong_input_raises_one_line() -> None:
    for given, classes, message in (
        ([broken()], None, r"the test data set has no class list: set metainfo=dict\(classes="),
        (
            [broken(found=rows((0, 0, 9, 9, 0.5, 3)))],
            CLASSES,
            r"000007.jpg: predicted class 3, but the data set has the classes 0 to 2 \(cat, dog, tree frog\): set num",
        ),
        ([broken(truth=rows((0, 0, 9, 9, 4, 0)))], CLASSES, r"000007.jpg: annotated class 4, but the data set has"),
        (
            [broken(found=rows((0, 0, 9, 9, 0.5, 0), (0, float("nan"), 9, 9, 0.4, 0)))],
            CLASSES,
            r"000007.jpg: a predicted box is not finite: \[0.0, nan, 9.0, 9.0, 0.4\d+\]; has the model diverged\?",
        ),
        ([broken(found=rows((0, 0, 9, 9, float("nan"), 0)))], CLASSES, "a predicted box is not finite"),
        ([broken(), broken()], CLASSES, r"000007.jpg is evaluated 2 times: every image counts once"),
        ([], CLASSES, r"no image was evaluated: is the list of the test split \(ann_file\) empty\?"),
    ):
        assert_refused(message, evaluate, given, classes=classes)
    sample = broken()
    del sample.pred_instances
    assert_refused(r"000007.jpg: no pred_instances.bboxes in the sample: the model is no detector", evaluate, [sample])
    sample = broken()
    sample.gt_instances, sample.ignored_instances = InstanceData(), InstanceData()
    assert_refused(r"no annotations: add dict\(type='LoadAnnotations', with_bbox=True\)", evaluate, [sample])
    assert_refused(r"iou=50: give a threshold above 0 and at most 1", DetectionMetric, iou=50)


def _share(rank: int, folder: Path, detections: Boxes, objects: Boxes) -> dict[str, float]:
    given = samples(detections, objects)
    metric = DetectionMetric(collect_dir=str(folder / "parts"))
    metric.dataset_meta = {"classes": CLASSES}
    return evaluate_share(metric, given, 3)


def test_three_processes_equal_one(tmp_path: Path) -> None:
    """Seven images over three processes: two are evaluated twice, to fill the shares, and count once."""
    boxes = random_boxes(5, images=7, ties=True)
    assert in_group(3, _share, tmp_path, tmp_path, *boxes) == [evaluate(samples(*boxes))] * 3
