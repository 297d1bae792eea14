"""The targets that a student's dense detection head assigns while it computes its own loss."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_reduce

from kd_mm.losses.observation import DenseAssignment
from kd_mm.stages.tap import child


@contextmanager
def assigning(head: Any, assigned: list[Any]) -> Iterator[None]:
    """While it lasts, append what a dense head assigns as targets to ``assigned``, one entry a call.

    mmdet's heads call their own ``get_targets`` in their loss and give the result to nobody; a second call would assign
    anew, at the cost of the loss. So the instance gets a method that also records. A head that assigns otherwise, or
    ``None``, is left alone.
    """
    original: Any = getattr(head, "get_targets", None)
    if original is None:
        yield
        return

    def get_targets(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        assigned.append(found)
        return found

    head.get_targets = get_targets
    try:
        yield
    finally:
        del head.get_targets


@torch.no_grad()
def read_assignment(head: Any, found: Sequence[Any], batch: int) -> DenseAssignment | None:
    """Return the assignment in what a dense head's ``get_targets`` returned, ``None`` where it is of no known form.

    The normalizer is what the head's own classification loss is divided by: positives, averaged over processes by GFL
    and ATSS, not by RetinaNet. For heads that count every position (FCOS) it is the sum of the positives' target
    centernesses averaged over processes, as in CrossKD's public code; 1 in a batch without positives, where that code
    divides by 1e-6.

    Args:
        head: The student's dense head.
        found: What its ``get_targets`` returned, as :func:`assigning` recorded it.
        batch: B, images.
    """
    if len(found) == 2 and child(head, "conv_centerness") is not None and found[0][0].ndim == 1:
        labels, boxes = (
            torch.cat([level.view(batch, -1, *level.shape[1:]) for level in levels], dim=1) for levels in found
        )
        positive = (labels >= 0) & (labels < head.num_classes)
        total = head.centerness_target(boxes[positive]).sum() if positive.any() else boxes.new_zeros(())
        all_reduce(total, op="mean")
        normalizer = torch.where(total > 0, total.clamp(min=1e-6), torch.ones_like(total))
        return DenseAssignment(torch.ones_like(positive, dtype=boxes.dtype), positive, normalizer)
    with_anchors = len(found) == 6 and not isinstance(found[5], list | tuple)
    labels_at = 1 if with_anchors else 0
    if len(found) < 5 + labels_at or isinstance(found[4 + labels_at], list | tuple):
        return None
    if any(level.ndim != 2 for levels in found[labels_at : labels_at + 2] for level in levels):
        return None  # FSAF chooses positives anew, by its loss
    labels, counted = (torch.cat(list(levels), dim=1) for levels in found[labels_at : labels_at + 2])
    normalizer = torch.as_tensor(found[4 + labels_at], dtype=counted.dtype, device=counted.device)
    if with_anchors:
        all_reduce(normalizer, op="mean")
    return DenseAssignment(counted, (labels >= 0) & (labels < head.num_classes), normalizer)
