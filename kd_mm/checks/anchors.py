"""Anchors of a detector that fit none of the objects, whatever their place in the image."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.task_modules import AnchorGenerator, MaxIoUAssigner
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.nn.functional import pad
from torchvision.ops import box_iou

from kd_mm.distillers import Distiller
from kd_mm.utils.config import as_list
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
        network, key = (model.student, "model.student") if isinstance(model, Distiller) else (model, "model")
        for name, head in network.named_children():
            parts = vars(head)
            if isinstance(parts.get("assigner"), MaxIoUAssigner) and isinstance(
                parts.get("prior_generator"), AnchorGenerator
            ):
                _compare(runner, f"{key}.{name}", head, data_batch["data_samples"])


def _compare(runner: Runner, key: str, head: Any, samples: Sequence[DetDataSample]) -> None:
    boxes = torch.cat([torch.as_tensor(get_box_tensor(sample.gt_instances.bboxes)) for sample in samples])
    if not len(boxes) or boxes.shape[1] != 4:  # rotated ones have five numbers
        return
    anchors = torch.cat(head.prior_generator.base_anchors)
    sides, others = (each[:, 2:] - each[:, :2] for each in (boxes.to(anchors), anchors))
    least = as_list(head.assigner.neg_iou_thr)[-1]
    poor = sides[box_iou(pad(sides, (2, 0)), pad(others, (2, 0))).amax(dim=1) < least]
    if 2 * len(poor) > len(sides):
        width, height = poor.median(dim=0).values.tolist()
        smallest, largest = (float(each) for each in others.prod(dim=1).sqrt().aminmax())
        runner.logger.warning(
            f"{key}: of {len(sides)} objects of the first batch {len(poor)}, in the median {width:.0f} x "
            f"{height:.0f} pixels, overlap with none of its anchors, of {smallest:.0f} to {largest:.0f} pixels, by "
            f"{least:g}: set scales or ratios of anchor_generator, or the size of Resize"
        )
