"""The registered metric of object detection."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from kd_mm.evaluation.coco import CocoResult, coco_average_precision
from kd_mm.evaluation.coco_json import write_coco_json
from kd_mm.evaluation.detection_samples import ImageBoxes, image_name, read_sample, voc_years
from kd_mm.evaluation.detection_table import detection_table
from kd_mm.evaluation.matches import Floats, match_boxes
from kd_mm.evaluation.precision_recall import draw_precision_recall
from kd_mm.evaluation.voc import VocResult, voc_average_precision
from kd_mm.registry import METRICS

#: What a mean is where no class has an object to find, as pycocotools says it.
UNDEFINED = -1.0
_LOGGED = ("mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


@METRICS.register_module()
class DetectionMetric(BaseMetric):
    """VOC07, VOC12 and COCO average precision from one pass over one match table.

    Logs in percent, unrounded: ``voc07/mAP`` (11 points), ``voc12/mAP`` (area), ``coco/mAP`` (IoU 0.50 to 0.95),
    ``coco/AP50``, ``coco/AP75``, ``coco/AP_small``, ``coco/AP_medium``, ``coco/AP_large``; -1 where no class has an
    object to find. Means are over the classes that have one. Prints one table of all classes. The first two agree with
    mmdet's ``VOCMetric``, the others with pycocotools, difficult objects being its crowds; see
    :func:`kd_mm.evaluation.voc_average_precision` and :func:`kd_mm.evaluation.coco_average_precision`.

    Args:
        iou: IoU threshold of the two VOC measures.
        inclusive: VOC's corners are pixels that belong to the box, so that a width is ``x2 - x1 + 1``, as in the
            development kit and in mmdet's ``VOCMetric``. COCO's widths are always ``x2 - x1``.
        classwise: Log ``voc07/AP_<class>``, ``voc12/AP_<class>`` and ``coco/AP_<class>`` too.
        pr_curve_dir: Write a precision-recall picture of each class into this folder.
        outfile_prefix: Write ``<prefix>.gt.json`` and ``<prefix>.bbox.json`` in COCO's format.
        collect_device: ``"cpu"`` or ``"gpu"``: how several processes bring their results together.
        prefix: Put before every name; default: nothing.
        collect_dir: Folder for that, with ``"cpu"``.

    Raises:
        ValueError: ``iou`` is not in (0, 1].
    """

    default_prefix = ""

    def __init__(
        self,
        iou: float = 0.5,
        inclusive: bool = True,
        classwise: bool = False,
        pr_curve_dir: str | None = None,
        outfile_prefix: str | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        if not 0 < iou <= 1:
            raise ValueError(f"DetectionMetric: iou={iou}: give a threshold above 0 and at most 1, such as 0.5")
        self.iou, self.inclusive, self.classwise = iou, inclusive, classwise
        self.pr_curve_dir, self.outfile_prefix = pr_curve_dir, outfile_prefix

    @property
    def classes(self) -> list[str]:
        """Class names of the data set.

        Raises:
            ValueError: It has none.
        """
        classes = (self.dataset_meta or {}).get("classes")
        if not classes:
            raise ValueError(
                "DetectionMetric: the test data set has no class list: set metainfo=dict(classes=('name', ...)) in it"
            )
        return [classes] if isinstance(classes, str) else [str(name) for name in classes]

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the boxes of a batch.

        Args:
            data_batch: Not used.
            data_samples: mmdet's data samples as dicts, with ``pred_instances`` and annotations.

        Raises:
            ValueError: See :func:`kd_mm.evaluation.detection_samples.read_sample`.
        """
        classes = self.classes
        # Plain tuples, so that the collected results need no class of ours to be read.
        self.results.extend(tuple(read_sample(sample, classes)) for sample in data_samples)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Measure everything.

        Args:
            results: Boxes of each image, in the order of the data set.

        Raises:
            ValueError: No images, or one of them twice.
        """
        images = [ImageBoxes(*result) for result in results]
        classes = self.classes
        _check_images(images)
        table = match_boxes(
            [image.detections for image in images],
            [image.objects for image in images],
            len(classes),
            self.inclusive,
            min(self.iou, 0.5),
        )
        voc, coco = voc_average_precision(table, self.iou), coco_average_precision(table)
        print_log("\n" + detection_table(self._data(images), classes, voc, coco), logger="current")
        if not voc.objects.any():
            text = f"no object to find in {len(images)} images: do the class names in the annotations match {classes}?"
            print_log(text, logger="current", level=logging.WARNING)
        if self.pr_curve_dir is not None:
            draw_precision_recall(voc, classes, self.pr_curve_dir)
        if self.outfile_prefix is not None:
            write_coco_json(images, classes, self.outfile_prefix)
        return self._scalars(classes, voc, coco)

    def _scalars(self, classes: Sequence[str], voc: VocResult, coco: CocoResult) -> dict[str, float]:
        summary = coco.summary()
        scalars = {"voc07/mAP": _percent(_mean(voc.ap07)), "voc12/mAP": _percent(_mean(voc.ap12))}
        scalars.update({f"coco/{name}": _percent(summary[name]) for name in _LOGGED})
        if self.classwise:
            measures = {"voc07": voc.ap07, "voc12": voc.ap12, "coco": coco.ap[:, 0].mean(axis=1)}
            for measure, values in measures.items():
                each = zip(classes, values, strict=True)
                scalars.update({f"{measure}/AP_{name}": _percent(value) for name, value in each})
        return scalars

    def _data(self, images: Sequence[ImageBoxes]) -> str:
        years = voc_years([image.name for image in images])
        rest = len(images) - sum(years.values())
        if rest:
            name = (self.dataset_meta or {}).get("dataset_type") or "data of no known year"
            years[str(name)] = years.get(str(name), 0) + rest
        return " + ".join(f"{name} ({count:,} {'image' if count == 1 else 'images'})" for name, count in years.items())


def _check_images(images: Sequence[ImageBoxes]) -> None:
    if not images:
        raise ValueError("DetectionMetric: no image was evaluated: is the list of the test split (ann_file) empty?")
    name, times = Counter(image_name(image, i) for i, image in enumerate(images)).most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"image {name} was evaluated {times} times: every image counts once; is it listed twice in ann_file, or is "
            "the test data set repeated?"
        )


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _percent(fraction: float) -> float:
    return UNDEFINED if np.isnan(fraction) else 100.0 * float(fraction)
