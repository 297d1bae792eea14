"""Time kd_mm's detection measures against mmdet's VOCMetric: alternating runs on made-up boxes, medians of each."""

import argparse
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.logging import MMLogger
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import kd_mm  # noqa: F401 - registers everything
from kd_mm.apis.cli import ClearErrors
from kd_mm.evaluation import DetectionMetric, coco_average_precision, match_boxes, voc_average_precision

Boxes = list[NDArray[np.float32]]


def make_boxes(images: int, boxes: int, classes: int, near: float, seed: int) -> tuple[Boxes, Boxes]:
    """Return detections and objects of each image: 1 to 5 objects; a share ``near`` of the detections lies at one."""
    random = np.random.default_rng(seed)
    detections, objects = [], []
    for _ in range(images):
        count = int(random.integers(1, 6))
        truth = _boxes(random, count)
        labels = random.integers(0, classes, (count, 1))
        objects.append(np.hstack([truth, labels, random.random((count, 1)) < 0.15]).astype(np.float32))
        found, found_labels = _boxes(random, boxes), random.integers(0, classes, (boxes, 1))
        at, use = random.integers(0, count, boxes), random.random(boxes) < near
        found[use] = (truth[at] + random.normal(0, 12, (boxes, 4)))[use]
        found_labels[use] = labels[at][use]
        detections.append(np.hstack([found, random.random((boxes, 1)), found_labels]).astype(np.float32))
    return detections, objects


def _boxes(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    corner = random.uniform(0, 300, (count, 2))
    return np.hstack([corner, corner + random.uniform(20, 200, (count, 2))])


def samples(detections: Boxes, objects: Boxes) -> list[dict[str, Any]]:
    """Return the same boxes as an evaluator hands them to a metric."""
    found = []
    for i, (mine, truth) in enumerate(
        zip(map(torch.from_numpy, detections), map(torch.from_numpy, objects), strict=True)
    ):
        hard = truth[:, 5] != 0
        found.append(
            {
                "img_path": f"VOCdevkit/VOC2007/JPEGImages/{i:06d}.jpg",
                "pred_instances": {"bboxes": mine[:, :4], "scores": mine[:, 4], "labels": mine[:, 5].long()},
                "gt_instances": {"bboxes": truth[~hard, :4], "labels": truth[~hard, 4].long()},
                "ignored_instances": {"bboxes": truth[hard, :4], "labels": truth[hard, 4].long()},
            }
        )
    return found


def contestants(detections: Boxes, objects: Boxes, classes: int) -> dict[str, Callable[[], float]]:
    """Return what is timed, by name; each returns VOC07 mAP in percent."""
    from mmdet.evaluation.functional import eval_map
    from mmdet.evaluation.metrics import VOCMetric

    split = [[boxes[boxes[:, 5] == label, :5] for label in range(classes)] for boxes in detections]
    truth = []
    for boxes in objects:
        hard = boxes[:, 5] != 0
        parts = {"": boxes[~hard], "_ignore": boxes[hard]}
        truth.append({key + end: part for end, rows in parts.items() for key, part in _annotation(rows).items()})
    given, meta = samples(detections, objects), {"classes": [f"class{i}" for i in range(classes)]}

    def upstream(processes: int) -> float:
        options = {"use_legacy_coordinate": True, "eval_mode": "11points", "logger": "silent"}
        return 100 * float(eval_map(split, truth, iou_thr=0.5, nproc=processes, **options)[0])

    def functions() -> float:
        table = match_boxes(detections, objects, classes)
        coco_average_precision(table)
        return 100 * float(np.nanmean(voc_average_precision(table).ap07))

    def whole(metric: Any, key: str, factor: float) -> float:
        metric.dataset_meta = meta
        for sample in given:
            metric.process(None, [sample])
        return factor * float(metric.evaluate(len(given))[key])

    return {
        "kd_mm, functions: VOC07, VOC12 and COCO": functions,
        "mmdet eval_map, 4 processes (its default): VOC07": lambda: upstream(4),
        "mmdet eval_map, 1 process: VOC07": lambda: upstream(1),
        "kd_mm.DetectionMetric, process and evaluate": lambda: whole(DetectionMetric(), "voc07/mAP", 1),
        "mmdet VOCMetric, process and evaluate": lambda: whole(VOCMetric(), "pascal_voc/mAP", 100),
    }


def _annotation(rows: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    return {"bboxes": rows[:, :4], "labels": rows[:, 4].astype(np.int64)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4952)
    parser.add_argument("--boxes", type=int, default=100, help="detections of each image")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--near", type=float, default=0.1, help="share of the detections that lie at an object")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with ClearErrors():
        if min(args.images, args.boxes, args.classes, args.repeats) < 1:
            raise ValueError("--images, --boxes, --classes and --repeats must be at least 1")
        MMLogger.get_instance("benchmark").setLevel(logging.ERROR)
        runs = contestants(*make_boxes(args.images, args.boxes, args.classes, args.near, args.seed), args.classes)
        times: dict[str, list[float]] = {name: [] for name in runs}
        scores = {}
        for _ in range(args.repeats):
            for name, run in runs.items():
                start = time.perf_counter()
                scores[name] = run()
                times[name].append(time.perf_counter() - start)
    title = f"{args.images} images x {args.boxes} boxes x {args.classes} classes, median of {args.repeats}"
    table = Table("what", "seconds", "ratio", "VOC07 mAP", title=title)
    base = statistics.median(next(iter(times.values())))
    for name, seconds in times.items():
        median = statistics.median(seconds)
        table.add_row(name, f"{median:.3f}", f"{median / base:.1f}", f"{scores[name]:.6f}")
    Console(width=118).print(table)


if __name__ == "__main__":
    main()
