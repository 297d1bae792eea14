"""The outputs of a dense detection head: class logits and boxes of all levels in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kd_mm.losses.functional import full_precision
from kd_mm.losses.observation import DenseAssignment


@dataclass(frozen=True)
class DenseOutput:
    """Outputs of a dense head, all levels in one: shallow to deep, then rows, columns, anchors.

    Attributes:
        cls: Class logits ``(B, N, K)``.
        reg: Raw box regression ``(B, N, D)``.
        decode: Maps a raw regression to boxes; see :meth:`boxes`.
        quality: Logits of centerness ``(B, N)``, where the head has one.
        assignment: The student's targets, where they are known.
    """

    cls: Tensor
    reg: Tensor
    decode: Callable[[Tensor], Tensor]
    quality: Tensor | None = None
    assignment: DenseAssignment | None = None

    def boxes(self) -> Tensor:
        """Return ``(B, N, 4)``, x1, y1, x2, y2 in pixels of the padded batch, as the head's own coder decodes them."""
        return self.decode(self.reg)


def flatten_levels(maps: Sequence[Tensor], width: int) -> Tensor:
    """Return maps ``(B, A * width, H, W)`` of all levels as ``(B, N, width)``."""
    return torch.cat([level.permute(0, 2, 3, 1).reshape(len(level), -1, width) for level in maps], dim=1)


def decode_boxes(head: Any, sizes: Sequence[tuple[int, int]], reg: Tensor) -> Tensor:
    """Return the boxes ``(B, N, 4)`` in pixels that the head's own box coder decodes, at least float32.

    Args:
        head: A dense head with ``prior_generator`` and ``bbox_coder``; with ``integral`` where it regresses bins.
        sizes: Height and width of the maps by level, in cells.
        reg: ``(B, N, D)``.
    """
    reg = full_precision(reg)
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
