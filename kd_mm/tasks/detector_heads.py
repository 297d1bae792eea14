"""The heads of a detector that a distillation reads, and the branch of it that is deployed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.losses.region_output import REGION_TAPS, first_of, is_cascade, num_maps, region_predictions, takes_regions
from kd_mm.stages.tap import child
from kd_mm.tasks.prediction_readers import DenseReader, LogitsReader, RoIReader, ScoreReader


@dataclass(frozen=True)
class DetectorHeads:
    """The heads of one detector.

    Attributes:
        roi: RoI head whose logits follow from features and regions alone.
        dense: Head with class maps over a grid.
        levels: Feature levels that the head of these two reads; 0 for a RoI head without a neck.
        cascade: Whether the RoI head is a cascade, whose first stage is read.
        two_stage: Whether there is any RoI head.
        num_classes: K, foreground classes; ``None`` where no head states it.
        kind: Type of the head, for messages.
    """

    roi: Any
    dense: Any
    levels: int
    cascade: bool
    two_stage: bool
    num_classes: int | None
    kind: str

    @classmethod
    def of(cls, model: nn.Module) -> DetectorHeads:
        """Read the heads of a detector."""
        roi, dense = child(model, "roi_head"), child(model, "bbox_head")
        two_stage = roi is not None
        heads = [child(model, name) for name in ("bbox_head", "roi_head", "mask_head", "panoptic_head", "rpn_head")]
        kind = next((type(head).__name__ for head in heads if head is not None), "no head")
        num_classes, cascade = _num_classes(roi or model), is_cascade(roi)
        levels = 0
        if not takes_regions(roi):
            roi = None
        else:
            levels = num_maps(model)
        generator = getattr(dense, "prior_generator", None)
        if generator is None or not (hasattr(dense, "cls_out_channels") or _is_yolo(dense)):
            dense = None
        elif roi is None:
            levels = generator.num_levels
        return cls(roi, dense, levels, cascade, two_stage, num_classes, kind)

    def reader(self, student: bool) -> LogitsReader | None:
        """Return how the class logits are read; ``None`` where there are none on regions or on a grid."""
        if self.roi is not None:
            return RoIReader(student, self.levels, self.cascade)
        if self.dense is None:
            return None
        if _is_yolo(self.dense) or child(self.dense, "multi_level_conv_obj") is not None:  # YOLOX
            return ScoreReader(self.levels, self.dense.num_classes, joined=_is_yolo(self.dense))
        return DenseReader(self.levels, self.dense.cls_out_channels)

    def incomparable(self, other: DetectorHeads) -> str:
        """Return why the class logits of another detector's head are not those of the same regions or positions."""
        own, others = self.reader(True), other.reader(False)
        if own is None or others is None:
            return f"{(self if own is None else other).kind} has no class logits on a grid or on regions"
        if own.unit != others.unit:
            return f"{self.kind} has one row of logits a {own.unit}, {other.kind} one a {others.unit}"
        if self.num_classes != other.num_classes:
            return f"{self.kind} has {self.num_classes} classes, {other.kind} {other.num_classes}"
        if self.roi is None and self.grid != other.grid:
            return f"{self.kind} and {other.kind} have other strides, anchors or kinds of logits"
        return ""

    @property
    def grid(self) -> tuple[Any, ...]:
        """Strides, anchors a position by level, and channels of an anchor of the dense head; of YOLOv3 their sizes."""
        generator = self.dense.prior_generator
        kind = generator.base_sizes if _is_yolo(self.dense) else self.dense.cls_out_channels
        return [tuple(stride) for stride in generator.strides], generator.num_base_priors, kind

    def run(self, features: Any, inputs: Tensor) -> Any:
        """Run the head whose logits are read; a RoI head on the upper left quarter of each image."""
        if self.roi is not None:
            height, width = inputs.shape[-2:]
            regions = inputs.new_tensor([[i, 0.0, 0.0, width / 2, height / 2] for i in range(len(inputs))])
            return region_predictions(self.roi, features, regions, self.cascade)[0]
        return None if self.dense is None else self.dense(features)


def _is_yolo(head: Any) -> bool:
    """Return whether a dense head is YOLOv3's: box, object and classes are channels of one map."""
    return hasattr(head, "num_attrib")


def _num_classes(owner: nn.Module) -> int | None:
    """Return K of the box head; without one of the mask head (SOLO) or the things of a panoptic one (MaskFormer)."""
    for name, key in (
        ("bbox_head", "num_classes"),
        ("mask_head", "num_classes"),
        ("panoptic_head", "num_things_classes"),
    ):
        count = getattr(first_of(child(owner, name)), key, None)
        if count is not None:
            return int(count)
    return None


def trident_test_branch(model: nn.Module) -> int | None:
    """Return which branch a detector of several branches keeps in inference, ``None`` where it has no branches.

    Raises:
        ValueError: It keeps all of them, so that an image has several maps.
    """
    branch: int | None = getattr(child(model, "backbone"), "test_branch_idx", None)
    if branch is not None and branch < 0:
        raise ValueError(
            f"{type(model).__name__} runs all of its branches in inference (test_branch_idx={branch}), so no single "
            "map of it belongs to an image: set test_branch_idx of backbone and roi_head to one branch, e.g. 1"
        )
    return branch


def keep_deployed_branch(model: nn.Module, records: Mapping[str, Tensor], images: int) -> dict[str, Tensor]:
    """Return the records of a detector in training, one map for each of ``images`` images.

    TridentNet (Li et al. 2019) trains three branches of shared weights, one after the other along the first dimension,
    and keeps one of them in inference. Of maps that branch is returned, of sampled regions ``(R, 5)`` the index of the
    image instead of that of the view. Distilling the deployed branch and comparing the regions of all is our reading.

    Raises:
        ValueError: See :func:`trident_test_branch`.
    """
    branch, found = trident_test_branch(model), dict(records)
    if branch is None:
        return found
    for tap, tensor in records.items():
        if tap in REGION_TAPS:
            found[tap] = torch.cat([tensor[:, :1] % images, tensor[:, 1:]], dim=1)
        elif tap.startswith(("backbone", "neck")) and len(tensor) > images:
            found[tap] = tensor[branch * images : (branch + 1) * images]
    return found
