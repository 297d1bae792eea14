"""Boxes, and reference implementations of their average precision."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Boxes = list[NDArray[np.float32]]


def rows(*given: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(given, dtype=np.float32).reshape(-1, 6)


def random_boxes(
    seed: int, images: int = 6, objects: int = 8, ties: bool = False, integer: bool = False
) -> tuple[Boxes, Boxes]:
    """Detections and objects of three classes; many detections lie near objects, and ``ties`` makes scores equal."""
    random = np.random.default_rng(seed)
    detections, truths = [], []
    for _ in range(images):
        count, found = random.integers(0, objects + 1), random.integers(0, 26)
        truth = np.hstack([_corners(random, count), random.integers(0, 3, (count, 1)), random.random((count, 1)) < 0.2])
        found_boxes = np.hstack([_corners(random, found), random.random((found, 1)), random.integers(0, 3, (found, 1))])
        if count:
            at, near = random.integers(0, count, found), random.random(found) < 0.6
            moved = truth[at, :4] + random.normal(0, 4, (found, 4))
            found_boxes[near, :4], found_boxes[near, 5] = moved[near], truth[at, 4][near]
        if ties:
            found_boxes[:, 4] = np.round(found_boxes[:, 4] * 4) / 4
        if integer:
            found_boxes[:, :4], truth[:, :4] = found_boxes[:, :4].round(), truth[:, :4].round()
        detections.append(found_boxes.astype(np.float32))
        truths.append(truth.astype(np.float32))
    return detections, truths


def _corners(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    corner = random.uniform(0, 90, (count, 2))
    return np.hstack([corner, corner + random.uniform(1, 70, (count, 2)) * random.choice([0.3, 1, 2], (count, 1))])


def pycocotools_of(detections: Boxes, objects: Boxes, classes: int) -> COCOeval:
    """Evaluate with pycocotools, ignored objects being crowds; images and classes are numbered from 1."""

    def box(image: int, label: float, x1: float, y1: float, x2: float, y2: float) -> dict[str, Any]:
        sides = x2 - x1, y2 - y1
        ids = {"image_id": image, "category_id": int(label) + 1}
        return {**ids, "bbox": [x1, y1, *sides], "area": sides[0] * sides[1]}

    truth, found = (
        [(i, *row) for i, image in enumerate(boxes, 1) for row in image.astype(float).tolist()]
        for boxes in (objects, detections)
    )
    results = [{**box(i, label, *corners), "score": score} for i, *corners, score, label in found]
    coco = COCO()
    coco.dataset["images"] = [{"id": number} for number in range(1, len(objects) + 1)]
    coco.dataset["categories"] = [{"id": number} for number in range(1, classes + 1)]
    coco.dataset["annotations"] = [
        {"id": number, **box(i, label, *corners), "iscrowd": int(ignored)}
        for number, (i, *corners, label, ignored) in enumerate(truth, 1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results) if results else COCO(), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def reference_voc(
    detections: Boxes, objects: Boxes, label: int, iou: float = 0.5, inclusive: bool = True
) -> tuple[float, float]:
    """The development kit's procedure for one class, a detection at a time: 11-point and area average precision."""
    truth = [image[image[:, 4] == label].astype(float) for image in objects]
    truth = [image[np.argsort(image[:, 5], kind="stable")] for image in truth]
    wanted = sum(int((image[:, 5] == 0).sum()) for image in truth)
    found = [(-row[4], i, row.astype(float)) for i, image in enumerate(detections) for row in image if row[5] == label]
    used: set[tuple[int, int]] = set()
    precision, recall, true, counted = [], [], 0, 0
    for _, i, row in sorted(found, key=lambda item: item[0]):
        best, at = -1.0, -1
        for j, thing in enumerate(truth[i]):
            overlap = reference_iou(row, thing, float(inclusive))
            if overlap > best:
                best, at = overlap, j
        if best >= iou and truth[i][at, 5]:
            continue
        counted += 1
        if best >= iou and (i, at) not in used:
            used.add((i, at))
            true += 1
        precision.append(true / counted)
        recall.append(true / wanted if wanted else 0.0)
    if not wanted:
        return float("nan"), float("nan")
    highest = [
        max([p for p, r in zip(precision, recall, strict=True) if r >= at], default=0.0)
        for at in np.arange(0, 1.001, 0.1)
    ]
    area, last = 0.0, 0.0
    for k, at in enumerate(recall):
        area += (at - last) * max(precision[k:])
        last = at
    return sum(highest) / 11, area


def reference_iou(one: Any, other: Any, extra: float) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0]) + extra
    height = min(one[3], other[3]) - max(one[1], other[1]) + extra
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (one, other)]
    return width * height / (areas[0] + areas[1] - width * height)


def data_sample(detections: NDArray[Any], objects: NDArray[Any], path: str) -> DetDataSample:
    """Return a data sample as an mmdet detector does for a test set with annotations."""
    found, truth = torch.from_numpy(detections), torch.from_numpy(objects)
    hard = truth[:, 5] != 0
    sample = DetDataSample(metainfo={"img_path": path, "img_id": Path(path).stem})
    sample.pred_instances = InstanceData(bboxes=found[:, :4], scores=found[:, 4], labels=found[:, 5].long())
    sample.gt_instances = InstanceData(bboxes=truth[~hard, :4], labels=truth[~hard, 4].long())
    sample.ignored_instances = InstanceData(bboxes=truth[hard, :4], labels=truth[hard, 4].long())
    return sample


CORNERS: dict[str, tuple[Boxes, Boxes]] = {
    "nothing at all": ([rows(), rows()], [rows(), rows()]),
    "no detections": ([rows(), rows()], [rows((0, 0, 9, 9, 0, 0)), rows((5, 5, 20, 30, 2, 0))]),
    "no objects": ([rows((0, 0, 9, 9, 0.5, 0)), rows((0, 0, 9, 9, 0.4, 1))], [rows(), rows()]),
    "duplicates": (
        [rows((0, 0, 9, 9, 0.9, 0), (0, 0, 9, 9, 0.8, 0), (0, 0, 9, 8, 0.7, 0), (30, 30, 60, 60, 0.6, 0))],
        [rows((0, 0, 9, 9, 0, 0), (30, 30, 60, 61, 0, 0))],
    ),
    "the best object is matched already": (
        [rows((0, 0, 20, 20, 0.9, 0), (0, 0, 20, 19, 0.8, 0))],
        [rows((0, 0, 20, 20, 0, 0), (0, 3, 20, 22, 0, 0))],
    ),
    "only difficult objects": (
        [rows((0, 0, 9, 9, 0.9, 0), (0, 0, 9, 9, 0.8, 0), (50, 50, 70, 70, 0.7, 0))],
        [rows((0, 0, 9, 9, 0, 1), (20, 20, 40, 40, 0, 1))],
    ),
    "a difficult object beside another": (
        [rows((0, 0, 40, 40, 0.9, 0), (1, 1, 41, 41, 0.8, 0), (2, 2, 10, 10, 0.7, 0), (60, 60, 80, 80, 0.6, 0))],
        [rows((0, 0, 40, 40, 0, 1), (2, 2, 40, 40, 0, 0), (60, 60, 80, 80, 0, 0))],
    ),
    "a class only annotated, one only detected": (
        [rows((0, 0, 9, 9, 0.9, 1), (0, 0, 30, 30, 0.8, 2))],
        [rows((0, 0, 9, 9, 0, 0), (0, 0, 30, 30, 2, 0))],
    ),
    "boxes of one pixel": (
        [rows((5, 5, 5, 5, 0.9, 0), (7, 5, 7, 5, 0.8, 0), (5, 5, 6, 5, 0.7, 1), (0, 0, 1, 1, 0.6, 2))],
        [rows((5, 5, 5, 5, 0, 0), (5, 5, 6, 5, 1, 0), (0, 0, 1, 1, 2, 0))],
    ),
    "detections elsewhere": (
        [rows((500, 500, 900, 900, 0.9, 0), (-40, -40, -5, -5, 0.8, 0)), rows((0, 0, 9, 9, 0.95, 0))],
        [rows((0, 0, 9, 9, 0, 0)), rows()],
    ),
    "an overlap of exactly one half": (
        [rows((0, 0, 9, 9, 0.9, 0), (0, 0, 10, 10, 0.9, 1))],
        [rows((0, 0, 9, 19, 0, 0), (0, 0, 10, 20, 1, 0))],
    ),
    "two objects overlapped alike": (
        [rows((10, 0, 29, 9, 0.9, 0), (0, 0, 24, 9, 0.8, 0))],
        [rows((5, 0, 24, 9, 0, 0), (15, 0, 34, 9, 0, 0))],
    ),
    "areas on the borders of the ranges": (
        [rows((0, 0, 32, 32, 0.9, 0), (0, 0, 96, 96, 0.8, 1), (0, 0, 33, 32, 0.7, 0), (0, 0, 97, 97, 0.6, 1))],
        [rows((0, 0, 32, 32, 0, 0), (0, 0, 96, 96, 1, 0), (0, 0, 31, 32, 0, 0), (1, 1, 97, 98, 1, 0))],
    ),
    "more than a hundred detections": (
        [np.vstack([rows(*((i, i, i + 50, i + 50, 0.9 - 0.004 * i, 0) for i in range(150)))])],
        [rows((0, 0, 50, 50, 0, 0), (60, 60, 110, 110, 0, 0), (140, 140, 190, 190, 0, 0))],
    ),
}
