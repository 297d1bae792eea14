"""Boxes drawn on images: ground truth and detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torchvision.ops import box_iou

from kd_mm.utils.figures import RIGHT, WRONG

_TRUTH = "#000000"
#: Height of a label as a share of the image's.
_LABEL_HEIGHT = 0.08
_HALO = [patheffects.Stroke(linewidth=2.6, foreground="white"), patheffects.Normal()]


def draw_objects(axes: Axes, objects: NDArray[Any], classes: Sequence[str]) -> None:
    """Draw ground truth; difficult objects are dashed.

    Args:
        axes: With the image, one unit a pixel.
        objects: ``(m, 6)``: x1, y1, x2, y2 in pixels, class, and 1 for one that is ignored, else 0.
        classes: Names of the classes.
    """
    for *box, label, ignored in objects:
        _draw_box(axes, box, classes[int(label)], _TRUTH, dashed=bool(ignored))


def draw_detections(
    axes: Axes, detections: NDArray[Any], objects: NDArray[Any], classes: Sequence[str], score: float
) -> None:
    """Draw detections in one colour where they are right (class and IoU 0.5), in another where they are wrong.

    Args:
        axes: With the image, one unit a pixel.
        detections: ``(n, 6)``: x1, y1, x2, y2 in pixels, score, class.
        objects: ``(m, 6)`` as for :func:`draw_objects`.
        classes: Names of the classes.
        score: Those with a lower score are left out.
    """
    detections = detections[detections[:, 4] >= score]
    overlaps = box_iou(torch.as_tensor(detections[:, :4]).double(), torch.as_tensor(objects[:, :4]).double()).numpy()
    right = ((overlaps >= 0.5) & (detections[:, 5:] == objects[:, 4])).any(axis=1)
    for (*box, confidence, label), is_right in zip(detections, right, strict=True):
        _draw_box(axes, box, f"{classes[int(label)]} {100 * confidence:.0f}", RIGHT if is_right else WRONG)


def _draw_box(axes: Axes, box: Sequence[float], text: str, color: str, dashed: bool = False) -> None:
    left, top, right, bottom = np.asarray(box, dtype=float) - 0.5  # a pixel's centre is its coordinate
    frame = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, linewidth=1.3)
    frame.set(linestyle=(0, (3, 2)) if dashed else "-", path_effects=None if dashed else _HALO)
    axes.add_patch(frame)
    background = {"boxstyle": "square,pad=0.1", "facecolor": color, "edgecolor": "none", "alpha": 0.85}
    above = top - min(axes.get_ylim()) > _LABEL_HEIGHT * abs(np.subtract(*axes.get_ylim()))
    style: dict[str, Any] = {"va": "bottom" if above else "top", "ha": "left", "clip_on": True}
    axes.text(left, top, text, color="white", fontsize=6.5, bbox=background, **style)
