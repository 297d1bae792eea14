"""What a dense detection head gives, and which of its positions the student's targets count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn


@dataclass(frozen=True)
class Assignment:
    """Which positions the student's own targets count.

    Attributes:
        counted: ``(B, N)``, 0 where a position is ignored, else 1.
        positive: ``(B, N)``, whether a position belongs to an object.
        normalizer: What a sum over positions is divided by.
    """

    counted: Tensor
    positive: Tensor
    normalizer: Tensor | float


@dataclass(frozen=True)
class DenseOutput:
    """What a dense head gives, all levels in one: shallow to deep, then rows, columns, anchors.

    Attributes:
        cls: Class logits ``(B, N, K)``.
        reg: Raw box regression ``(B, N, D)``.
        decode: Makes boxes of a raw regression; see :meth:`boxes`.
        quality: Logits of centerness ``(B, N)``, where the head has one.
        assignment: The student's targets, where they are known.
    """

    cls: Tensor
    reg: Tensor
    decode: Callable[[Tensor], Tensor]
    quality: Tensor | None = None
    assignment: Assignment | None = None

    def boxes(self) -> Tensor:
        """Return ``(B, N, 4)``, x1, y1, x2, y2 in pixels of the padded batch, as the head's own coder decodes them."""
        return self.decode(self.reg)


def flatten_levels(maps: Sequence[Tensor], width: int) -> Tensor:
    """Return maps ``(B, A * width, H, W)`` of all levels as ``(B, N, width)``."""
    return torch.cat([level.permute(0, 2, 3, 1).reshape(len(level), -1, width) for level in maps], dim=1)


def decode_boxes(head: Any, sizes: Sequence[tuple[int, int]], reg: Tensor) -> Tensor:
    """Return boxes ``(B, N, 4)`` in pixels: what the head's own box coder makes of a raw regression, at least float32.

    Args:
        head: A dense head with ``prior_generator`` and ``bbox_coder``; with ``integral`` where it regresses bins.
        sizes: Height and width of the maps by level, in cells.
        reg: ``(B, N, D)``.
    """
    reg = reg.float() if reg.dtype in (torch.float16, torch.bfloat16) else reg
    levels = head.prior_generator.grid_priors(list(sizes), dtype=reg.dtype, device=reg.device)
    levels = [getattr(priors, "tensor", priors) for priors in levels]
    priors = torch.cat(levels).repeat(len(reg), 1)
    flat = reg.flatten(0, 1)
    if hasattr(head, "integral"):
        strides = [
            level.new_full((len(level), 1), stride[0])
            for level, stride in zip(levels, head.prior_generator.strides, strict=True)
        ]
        flat = head.integral(flat) * torch.cat(strides).repeat(len(reg), 1)
        priors = (priors[:, :2] + priors[:, 2:]) / 2
    boxes = head.bbox_coder.decode(priors, flat)
    return getattr(boxes, "tensor", boxes).view(len(reg), -1, 4)


@contextmanager
def assigning(head: nn.Module, kept: list[Any]) -> Iterator[None]:
    """While it lasts, append what ``head.get_targets`` returns to ``kept``: the student's targets, assigned once.

    Args:
        head: The student's dense head.
        kept: Filled, one entry a call.
    """
    original: Any = head.get_targets

    def get_targets(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        kept.append(found)
        return found

    head.get_targets = get_targets  # type: ignore[assignment]
    try:
        yield
    finally:
        del head.get_targets


@torch.no_grad()
def read_assignment(head: Any, found: Sequence[Any], batch: int) -> Assignment | None:
    """Return the assignment in what a dense head's ``get_targets`` returned, ``None`` where it is of no known form.

    The normalizer is what the head's own classification loss is divided by: positives, averaged over processes by GFL
    and ATSS, not by RetinaNet. For heads that count every position (FCOS) it is the sum of the positives' target
    centernesses averaged over processes, as in CrossKD's public code; 1 in a batch without positives, where that code
    divides by 1e-6.

    Args:
        head: The student's dense head.
        found: What its ``get_targets`` returned.
        batch: B, images.
    """
    if len(found) == 2 and hasattr(head, "centerness_target"):
        labels, boxes = (
            torch.cat([level.view(batch, -1, *level.shape[1:]) for level in levels], dim=1) for levels in found
        )
        positive = (labels >= 0) & (labels < head.num_classes)
        total = head.centerness_target(boxes[positive]).sum() if positive.any() else boxes.new_zeros(())
        all_reduce(total, op="mean")
        normalizer = torch.where(total > 0, total.clamp(min=1e-6), torch.ones_like(total))
        return Assignment(torch.ones_like(positive, dtype=boxes.dtype), positive, normalizer)
    with_anchors = len(found) == 6 and not isinstance(found[5], list | tuple)
    labels_at = 1 if with_anchors else 0
    if len(found) < 5 + labels_at or isinstance(found[4 + labels_at], list | tuple):
        return None
    labels, counted = (torch.cat(list(levels), dim=1) for levels in found[labels_at : labels_at + 2])
    normalizer = torch.as_tensor(found[4 + labels_at], dtype=counted.dtype, device=counted.device)
    if with_anchors:
        all_reduce(normalizer, op="mean")
    return Assignment(counted, (labels >= 0) & (labels < head.num_classes), normalizer)
