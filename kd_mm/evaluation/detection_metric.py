"""The registered metric of object detection."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from numpy.typing import NDArray
from torch import Tensor

from kd_mm.evaluation.detection_ap import DetectionAP, detection_ap, nan_mean
from kd_mm.evaluation.detection_report import describe_data, detection_table
from kd_mm.registry import METRICS
from kd_mm.tasks.targets import box_tensor
from kd_mm.utils.suggest import warn

#: The mean where no class has an object to find, as in pycocotools.
UNDEFINED = -1.0
_LOGGED = ("mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


@dataclass(frozen=True)
class ImageBoxes:
    """Boxes of one image."""

    name: str  # path of the image, or its id where the sample has no path
    detections: NDArray[Any]  # (n, 6): x1, y1, x2, y2 in pixels, score, class
    objects: NDArray[Any]  # (m, 6): x1, y1, x2, y2 in pixels, class, and 1 for one that is ignored, else 0


@METRICS.register_module()
class DetectionMetric(BaseMetric):
    """VOC07, VOC12 and COCO average precision of one evaluation.

    Logs in percent, unrounded: ``voc07/mAP`` (11 points), ``voc12/mAP`` (area), ``coco/mAP`` (IoU 0.50 to 0.95),
    ``coco/AP50``, ``coco/AP75``, ``coco/AP_small``, ``coco/AP_medium``, ``coco/AP_large``; -1 where no class has an
    object to find. Means are over the classes that have one. Prints one table of all classes. The first two agree with
    mmdet's ``VOCMetric``, the others with pycocotools, with difficult objects as crowds; see
    :func:`kd_mm.evaluation.detection_ap.detection_ap`.

    Args:
        iou: IoU threshold of the two VOC measures.
        inclusive: Whether VOC's widths are ``x2 - x1 + 1``, as in the development kit and in mmdet's ``VOCMetric``.
            COCO's widths are always ``x2 - x1``.
        classwise: Log ``voc07/AP_<class>``, ``voc12/AP_<class>`` and ``coco/AP_<class>`` too.
        **kwargs: As for mmengine's ``BaseMetric`` (``collect_device``, ``prefix``, ``collect_dir``).

    Raises:
        ValueError: ``iou`` is not in (0, 1].
    """

    default_prefix = ""

    def __init__(
        self,
        iou: float = 0.5,
        inclusive: bool = True,
        classwise: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < iou <= 1:
            raise ValueError(f"DetectionMetric: iou={iou}: give a threshold above 0 and at most 1, such as 0.5")
        self.iou, self.inclusive, self.classwise = iou, inclusive, classwise

    @property
    def classes(self) -> list[str]:
        """Class names of the data set; raises ``ValueError`` where it has none."""
        classes = (self.dataset_meta or {}).get("classes")
        if not classes:
            raise ValueError(
                "DetectionMetric: the test data set has no class list: set metainfo=dict(classes=('name', ...)) in it"
            )
        return [classes] if isinstance(classes, str) else [str(name) for name in classes]

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Store the boxes of a batch of mmdet's data samples, given as dicts; see :func:`read_sample`."""
        classes = self.classes
        self.results.extend(read_sample(sample, classes) for sample in data_samples)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Return the measures of all images, given in the order of the data set.

        Raises:
            ValueError: No images, or one of them twice.
        """
        classes, names = self.classes, [image.name for image in results]
        check_listed_once(names)
        detections, objects = [image.detections for image in results], [image.objects for image in results]
        found = detection_ap(detections, objects, len(classes), self.iou, self.inclusive)
        data = describe_data(names, (self.dataset_meta or {}).get("dataset_type"))
        print_log("\n" + detection_table(data, classes, found, self.iou, self.inclusive), logger="current")
        if not found.objects.any():
            text = f"no object to find in {len(results)} images: do the class names in the annotations match {classes}?"
            warn(text)
        return self._scalars(classes, found)

    def _scalars(self, classes: Sequence[str], found: DetectionAP) -> dict[str, float]:
        scalars = {"voc07/mAP": _percent(nan_mean(found.voc07)), "voc12/mAP": _percent(nan_mean(found.voc12))}
        scalars.update({f"coco/{name}": _percent(found.coco_summary[name]) for name in _LOGGED})
        if self.classwise:
            measures = {"voc07": found.voc07, "voc12": found.voc12, "coco": found.coco[:, 0].mean(axis=1)}
            for measure, values in measures.items():
                each = zip(classes, values, strict=True)
                scalars.update({f"{measure}/AP_{name}": _percent(value) for name, value in each})
        return scalars


def _percent(fraction: float) -> float:
    return UNDEFINED if np.isnan(fraction) else 100.0 * float(fraction)


def check_listed_once(names: Sequence[str]) -> None:
    """Stop where an image is evaluated more than once.

    Args:
        names: Of the images, empty where they have none.

    Raises:
        ValueError: One is there twice, or there are none.
    """
    if not names:
        raise ValueError("DetectionMetric: no image was evaluated: is the list of the test split (ann_file) empty?")
    name, times = Counter(name or f"number {i}" for i, name in enumerate(names)).most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"image {name} is evaluated {times} times: every image counts once; is it listed twice in ann_file, or is "
            "the test data set repeated?"
        )


def read_sample(sample: Mapping[str, Any], classes: Sequence[str]) -> ImageBoxes:
    """Read the predictions and the annotations of a data sample.

    Args:
        sample: A ``DetDataSample`` as a dict, with its objects in ``gt_instances`` and ``ignored_instances``, as
            ``PackDetInputs`` stores them, or in ``instances`` with ``ignore_flag``.
        classes: The class list of the data set.

    Raises:
        ValueError: No predictions, no annotations, a box or score that is not finite, or a class outside of the list.
    """
    name = str(sample.get("img_path") or sample.get("img_id") or "")
    found, truth, ignored = (sample.get(key, {}) for key in ("pred_instances", "gt_instances", "ignored_instances"))
    if "bboxes" not in found:
        raise ValueError(f"image {name}: no pred_instances.bboxes in the sample: the model is no detector")
    if "bboxes" not in truth and sample.get("instances") is None:
        raise ValueError(
            f"image {name}: the sample has no annotations: add dict(type='LoadAnnotations', with_bbox=True) after the "
            "resizing in test_pipeline"
        )
    detections = _rows(found["bboxes"], found["scores"], found["labels"])
    if "bboxes" in truth:
        objects = _rows(truth["bboxes"], truth["labels"], torch.zeros(len(truth["labels"])))
    else:
        boxes = [[*box["bbox"], box["bbox_label"], box.get("ignore_flag", 0)] for box in sample["instances"]]
        objects = np.array(boxes, dtype=np.float64).reshape(-1, 6)
    if "bboxes" in ignored:
        difficult = _rows(ignored["bboxes"], ignored["labels"], torch.ones(len(ignored["labels"])))
        objects = np.concatenate([objects, difficult])
    for what, rows, column in (("predicted", detections, 5), ("annotated", objects, 4)):
        if not np.isfinite(rows).all():
            row = rows[~np.isfinite(rows).all(axis=1)][0]
            raise ValueError(f"image {name}: a {what} box is not finite: {row[:5].tolist()}; has the model diverged?")
        outside = rows[(rows[:, column] < 0) | (rows[:, column] >= len(classes)), column]
        if outside.size:
            listed = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
            raise ValueError(
                f"image {name}: {what} class {int(outside[0])}, but the data set has the classes 0 to "
                f"{len(classes) - 1} ({listed}): set num_classes={len(classes)} in the model's heads, or "
                "metainfo=dict(classes=...) in the data set to the list that the model was trained with"
            )
    return ImageBoxes(name, detections, objects)


def _rows(boxes: Any, *columns: Tensor) -> NDArray[Any]:
    """Return boxes and columns side by side, ``(n, 4 + columns)``, with one transfer from the device."""
    boxes = box_tensor(boxes).detach().reshape(-1, 4)
    dtype = boxes.dtype if boxes.dtype == torch.float64 else torch.float32
    parts = [boxes.to(dtype), *(column.detach().to(boxes.device, dtype)[:, None] for column in columns)]
    return torch.cat(parts, dim=1).cpu().numpy()
