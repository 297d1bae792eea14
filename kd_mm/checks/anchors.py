"""Anchors of a detector that fit none of the objects, whatever their place in the image."""

from collections.abc import Mapping
from typing import Any

import torch
from mmdet.models.task_modules import AnchorGenerator, MaxIoUAssigner
from mmdet.structures.bbox import get_box_tensor
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from kd_mm.distillers import Distiller
from kd_mm.utils.contexts import unwrapped


class AnchorCheckHook(Hook):
    """Warns where the anchors of a head fit few of the objects of the first batch, so that little is learned.

    A head with a ``MaxIoUAssigner`` learns a box from anchors that overlap with it by ``neg_iou_thr`` or more. Here
    the anchors are laid over the box, corner on corner, which no anchor of the image exceeds.
    """

    def __init__(self) -> None:
        self._checked = False

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if self._checked:
            return
        self._checked, model = True, unwrapped(runner)
        samples = data_batch.get("data_samples") if isinstance(data_batch, Mapping) else None
        packed = [sample.gt_instances for sample in samples or () if "gt_instances" in sample]
        boxes = [torch.as_tensor(get_box_tensor(objects.bboxes)) for objects in packed if "bboxes" in objects]
        boxes = [each[:, :4] for each in boxes if each.shape[-1] == 4 and len(each)]
        student = model.student if isinstance(model, Distiller) else model
        for name, head in student.named_children() if boxes else ():
            parts = vars(head)
            generator, assigner = parts.get("prior_generator"), parts.get("assigner")
            if not isinstance(generator, AnchorGenerator) or not isinstance(assigner, MaxIoUAssigner):
                continue
            anchors = torch.cat([each[:, 2:] - each[:, :2] for each in generator.base_anchors])
            sides = torch.cat([each[:, 2:] - each[:, :2] for each in boxes]).to(anchors)
            least = assigner.neg_iou_thr if isinstance(assigner.neg_iou_thr, float) else assigner.neg_iou_thr[-1]
            poor = sides[best_overlaps(sides, anchors) < least]
            if 2 * len(poor) > len(sides):
                width, height = poor.median(dim=0).values.tolist()
                smallest, largest = (float(each) for each in anchors.prod(dim=1).sqrt().aminmax())
                runner.logger.warning(
                    f"model.{name}: of {len(sides)} objects of the first batch {len(poor)}, in the median "
                    f"{width:.0f} x {height:.0f} pixels, overlap with none of its anchors, of {smallest:.0f} to "
                    f"{largest:.0f} pixels, by {least:g}: set scales or ratios of anchor_generator, or the size of "
                    "Resize"
                )


def best_overlaps(sides: Tensor, anchors: Tensor) -> Tensor:
    """Return the largest overlap (IoU) of each box with one of the anchors, corner on corner.

    Args:
        sides: Widths and heights of N boxes, (N, 2).
        anchors: Widths and heights of A anchors, (A, 2).

    Returns:
        (N,), from 0 to 1.
    """
    common = torch.minimum(sides[:, None], anchors[None]).prod(dim=-1)
    return (common / (sides.prod(dim=-1)[:, None] + anchors.prod(dim=-1)[None] - common)).amax(dim=1)
