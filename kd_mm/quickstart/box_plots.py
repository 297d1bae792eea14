"""Boxes drawn on images: ground truth, and what a detector found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

#: Colour-blind safe (Okabe and Ito).
RIGHT, WRONG, TRUTH = "#009E73", "#D55E00", "#000000"
#: Height of a label as a share of the image's.
_LABEL = 0.08
_HALO = [patheffects.Stroke(linewidth=2.6, foreground="white"), patheffects.Normal()]


def draw_objects(axes: Axes, objects: NDArray[Any], classes: Sequence[str]) -> None:
    """Draw ground truth; difficult objects are dashed.

    Args:
        axes: Where the image is shown, one unit a pixel.
        objects: ``(m, 6)``: x1, y1, x2, y2 in pixels, class, and 1 for one that is ignored, else 0.
        classes: Names of the classes.
    """
    for *box, label, ignored in objects:
        _box(axes, box, classes[int(label)], TRUTH, dashed=bool(ignored))


def draw_detections(
    axes: Axes, detections: NDArray[Any], objects: NDArray[Any], classes: Sequence[str], score: float
) -> None:
    """Draw detections in one colour where they are right (class and IoU 0.5), in another where they are wrong.

    Args:
        axes: Where the image is shown, one unit a pixel.
        detections: ``(n, 6)``: x1, y1, x2, y2 in pixels, score, class.
        objects: ``(m, 6)`` as for :func:`draw_objects`.
        classes: Names of the classes.
        score: Those with a lower score are left out.
    """
    for *box, confidence, label in detections[detections[:, 4] >= score]:
        right = any(label == other[4] and _overlap(box, other[:4]) >= 0.5 for other in objects)
        _box(axes, box, f"{classes[int(label)]} {100 * confidence:.0f}", RIGHT if right else WRONG)


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def _box(axes: Axes, box: Sequence[float], text: str, color: str, dashed: bool = False) -> None:
    left, top, right, bottom = np.asarray(box, dtype=float) - 0.5  # a pixel's centre is its coordinate
    style = (0, (3, 2)) if dashed else "-"
    frame = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, linewidth=1.3)
    frame.set(linestyle=style, path_effects=None if dashed else _HALO)
    axes.add_patch(frame)
    under = {"boxstyle": "square,pad=0.1", "facecolor": color, "edgecolor": "none", "alpha": 0.85}
    above = top - min(axes.get_ylim()) > _LABEL * abs(np.subtract(*axes.get_ylim()))
    place: dict[str, Any] = {"va": "bottom" if above else "top", "ha": "left", "clip_on": True}
    axes.text(left, top, text, color="white", fontsize=6.5, bbox=under, **place)
