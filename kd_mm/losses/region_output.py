"""The (first) RoI head of a two-stage detector, on the regions that the student samples."""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.losses.dense_output import DenseOutput
from kd_mm.stages.tap import child


class RegionHead:
    """A RoI head whose class logits and boxes are read on the regions that the student sampled.

    The student's outputs are recorded as it computes its own loss; a teacher runs on the same regions and its own
    features.

    Args:
        detector: A two-stage detector.

    Attributes:
        student_taps: Taps of a student: class logits, box regression, regions.
        teacher_taps: Taps of a teacher: the maps that its RoI head pools.
    """

    on_grid = False

    def __init__(self, detector: nn.Module) -> None:
        self.head: Any = detector.get_submodule("roi_head")
        self.cascade = is_cascade(self.head)
        self.student_taps = student_taps(self.cascade)
        self.teacher_taps = map_taps(num_maps(detector))

    @staticmethod
    def fits(detector: nn.Module) -> bool:
        """Return whether a detector has a RoI head on features and regions alone that regresses a box of each."""
        roi_head = child(detector, "roi_head")
        box_head = first_of(child(roi_head, "bbox_head"))
        return takes_regions(roi_head) and isinstance(child(box_head, "fc_reg"), nn.Linear)

    def read_pair(
        self, teacher: "RegionHead", records: Mapping[str, Tensor], teacher_records: Mapping[str, Tensor], _: Any = None
    ) -> tuple[DenseOutput, DenseOutput]:
        """Return the outputs of a student that has this head and of its teacher, on the student's regions."""
        logits, reg, regions = (records[tap] for tap in self.student_taps)
        target, labels = teacher.of_teacher(teacher_records, regions.detach())
        return self.output(logits, reg, regions.detach(), labels), target

    @torch.no_grad()
    def of_teacher(self, records: Mapping[str, Tensor], regions: Tensor) -> tuple[DenseOutput, Tensor]:
        """Return a teacher's output on regions ``(R, 5)``, and its class of each ``(R,)``, background left out."""
        like = next(self.head.parameters())
        maps = [records[tap].to(like.dtype) for tap in self.teacher_taps]
        logits, reg = region_predictions(self.head, maps, regions.to(like.dtype), self.cascade)
        labels = logits[:, :-1].argmax(dim=1)
        return self.output(logits, reg, regions, labels), labels

    def output(self, logits: Tensor, reg: Tensor, regions: Tensor, labels: Tensor) -> DenseOutput:
        """Return the output on R regions as one image of R positions.

        Args:
            logits: ``(R, K + 1)``, background last.
            reg: ``(R, 4 K)``, or ``(R, 4)`` of a head that regresses all classes alike.
            regions: ``(R, 5)``, image index and x1, y1, x2, y2 in pixels.
            labels: ``(R,)``, the class whose box counts.
        """
        if reg.shape[1] > 4:
            reg = reg.unflatten(1, (-1, 4))[torch.arange(len(reg), device=reg.device), labels]
        coder = (self.head.bbox_head[0] if self.cascade else self.head.bbox_head).bbox_coder
        return DenseOutput(logits[None], reg[None], partial(_decode, coder, regions[:, 1:]), background=True)


def _decode(coder: Any, regions: Tensor, reg: Tensor) -> Tensor:
    from mmdet.structures.bbox import get_box_tensor

    boxes: Tensor = get_box_tensor(coder.decode(regions.to(reg.dtype), reg[0]))
    return boxes[None]


def takes_regions(roi_head: Any) -> bool:
    """Return whether features and regions alone are enough for a RoI head.

    Sparse R-CNN's also needs its queries, HTC's and SCNet's a semantic map or a context of the image.
    """
    if child(roi_head, "bbox_roi_extractor") is None or child(roi_head, "semantic_head"):
        return False
    forward = None if child(roi_head, "glbctx_head") else getattr(roi_head, "_bbox_forward", None)
    asked = inspect.signature(forward).parameters.values() if forward else ()
    return len([one for one in asked if one.default is one.empty]) == (3 if is_cascade(roi_head) else 2)


def region_predictions(roi_head: Any, features: Any, regions: Tensor, cascade: bool) -> tuple[Tensor, Tensor]:
    """Return class logits ``(R, K + 1)`` and box regression of regions ``(R, 5)``; of a cascade its first stage's."""
    # mmdet has no public method that classifies given regions.
    found = roi_head._bbox_forward(*((0,) if cascade else ()), features, regions)
    return found["cls_score"], found["bbox_pred"]


def num_maps(detector: nn.Module) -> int:
    """Return how many levels of the neck a detector's RoI head pools; 0 without a neck."""
    roi_head: Any = detector.get_submodule("roi_head")
    return int(first_of(roi_head.bbox_roi_extractor).num_inputs) if child(detector, "neck") is not None else 0


def map_taps(levels: int) -> tuple[str, ...]:
    """Return the taps of the maps that a RoI head pools, given :func:`num_maps`."""
    return tuple(f"neck[{level}]" for level in range(levels)) if levels else ("backbone[0]",)


def student_taps(cascade: bool) -> tuple[str, str, str]:
    """Return the taps of a student's class logits, box regression and regions."""
    first = f"roi_head.bbox_head{'.0' if cascade else ''}"
    return f"{first}[0]", f"{first}[1]", region_tap(cascade)


def region_tap(cascade: bool) -> str:
    """Return the tap of the regions ``(R, 5)`` (image, x1, y1, x2, y2 in pixels) that a student's RoI head pools."""
    return f"roi_head.bbox_roi_extractor{'.0' if cascade else ''}:in1"


#: Taps of these regions, with and without a cascade.
REGION_TAPS = (region_tap(False), region_tap(True))


def is_cascade(roi_head: nn.Module | None) -> bool:
    """Return whether a RoI head is a cascade of several."""
    return isinstance(child(roi_head, "bbox_head"), nn.ModuleList)


def first_of(part: Any) -> Any:
    """Return the first of a cascade's modules, or the module itself."""
    return part[0] if isinstance(part, nn.ModuleList) else part
