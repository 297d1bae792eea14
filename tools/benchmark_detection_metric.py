"""Time kd_mm's detection measures beside mmdet's VOCMetric: alternating runs on synthetic boxes, medians of each."""

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

from kd_mm.evaluation import DetectionMetric, detection_ap

Boxes = list[NDArray[np.float32]]


def make_boxes(images: int, boxes: int, classes: int, near: float, seed: int) -> tuple[Boxes, Boxes]:
    """Return detections and objects of each image: 1 to 5 objects; a share ``near`` of the detections lies at one."""
    random = np.random.default_rng(seed)

    def corners(count: int) -> NDArray[np.float64]:
        corner = random.uniform(0, 300, (count, 2))
        return np.hstack([corner, corner + random.uniform(20, 200, (count, 2))])

    detections, objects = [], []
    for _ in range(images):
        count = int(random.integers(1, 6))
        truth, labels = corners(count), random.integers(0, classes, (count, 1))
        objects.append(np.hstack([truth, labels, random.random((count, 1)) < 0.15]).astype(np.float32))
        found, found_labels = corners(boxes), random.integers(0, classes, (boxes, 1))
        at, use = random.integers(0, count, boxes), random.random(boxes) < near
        found[use] = (truth[at] + random.normal(0, 12, (boxes, 4)))[use]
        found_labels[use] = labels[at][use]
        detections.append(np.hstack([found, random.random((boxes, 1)), found_labels]).astype(np.float32))
    return detections, objects


def data_samples(detections: Boxes, objects: Boxes) -> list[dict[str, Any]]:
    """Return the boxes as an evaluator passes them to a metric."""

    def instances(rows: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"bboxes": rows[:, :4], "labels": rows[:, 4].long()}

    samples = []
    for i, (found, truth) in enumerate(
        zip(map(torch.from_numpy, detections), map(torch.from_numpy, objects), strict=True)
    ):
        hard = truth[:, 5] != 0
        samples.append(
            {
                "img_path": f"VOCdevkit/VOC2007/JPEGImages/{i:06d}.jpg",
                "pred_instances": {"bboxes": found[:, :4], "scores": found[:, 4], "labels": found[:, 5].long()},
                "gt_instances": instances(truth[~hard]),
                "ignored_instances": instances(truth[hard]),
            }
        )
    return samples


def programs(detections: Boxes, objects: Boxes, classes: int) -> dict[str, Callable[[], float]]:
    """Return what is timed, by name; each returns VOC07 mAP in percent."""
    from mmdet.evaluation.metrics import VOCMetric

    samples, meta = data_samples(detections, objects), {"classes": [f"class{i}" for i in range(classes)]}

    def evaluate(metric: Any, key: str, factor: float) -> float:
        metric.dataset_meta = meta
        for sample in samples:
            metric.process(None, [sample])
        return factor * float(metric.evaluate(len(samples))[key])

    return {
        "kd_mm detection_ap: VOC07, VOC12 and COCO": lambda: float(
            100 * np.nanmean(detection_ap(detections, objects, classes).voc07)
        ),
        "kd_mm.DetectionMetric, process and evaluate": lambda: evaluate(DetectionMetric(), "voc07/mAP", 1),
        "mmdet VOCMetric, process and evaluate": lambda: evaluate(VOCMetric(), "pascal_voc/mAP", 100),
    }


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4952)
    parser.add_argument("--boxes", type=int, default=100, help="detections of each image")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--near", type=float, default=0.1, help="share of the detections that lie at an object")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    if min(args.images, args.boxes, args.classes, args.repeats) < 1:
        raise ValueError("--images, --boxes, --classes and --repeats must be at least 1")
    MMLogger.get_instance("benchmark").setLevel(logging.ERROR)
    runs = programs(*make_boxes(args.images, args.boxes, args.classes, args.near, args.seed), args.classes)
    times: dict[str, list[float]] = {name: [] for name in runs}
    scores = {}
    for _ in range(args.repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            scores[name] = run()
            times[name].append(time.perf_counter() - start)
    title = f"{args.images} images x {args.boxes} boxes x {args.classes} classes, median of {args.repeats}"
    table = Table("what", "seconds", "VOC07 mAP", title=title)
    for name, seconds in times.items():
        table.add_row(name, f"{statistics.median(seconds):.3f}", f"{scores[name]:.6f}")
    Console(width=118).print(table)


if __name__ == "__main__":
    main(parse_args())
