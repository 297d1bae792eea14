"""Precision-recall curves as pictures."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kd_mm.engine.atomic_files import replace_file
from kd_mm.evaluation.voc import VocResult


def draw_precision_recall(voc: VocResult, classes: Sequence[str], folder: str | Path) -> list[Path]:
    """Write one ``<class>.png`` for each class that has objects to find: its curve, and the envelope that is averaged.

    Args:
        voc: The measured curves.
        classes: Class names, K.
        folder: Where to write; made if missing.

    Returns:
        The files.
    """
    files: list[Path] = []
    for label in np.flatnonzero(voc.objects):
        stem = re.sub(r"[^\w.-]+", "_", classes[label]) or "class"
        path = Path(folder) / f"{stem}.png"
        if path in files:
            path = Path(folder) / f"{stem}_{label}.png"
        replace_file(path, _picture(voc, int(label), classes[label]))
        files.append(path)
    return files


def _picture(voc: VocResult, label: int, name: str) -> bytes:
    curve = voc.curve(label)
    figure = Figure(figsize=(6, 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
    start = np.append(0.0, curve.recall), np.append(envelope[:1].sum(), envelope)
    axes.step(*start, where="pre", color="#D55E00", linewidth=1.2, label="interpolated")
    axes.plot(curve.recall, curve.precision, color="#0072B2", linewidth=1.6, label="measured")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.03), xlabel="recall", ylabel=f"precision at IoU {voc.iou:g}")
    areas = f"VOC07 AP {100 * voc.ap07[label]:.2f}, VOC12 AP {100 * voc.ap12[label]:.2f}"
    axes.set_title(f"{name}: {areas} ({int(voc.objects[label]):,} objects)", fontsize=11, parse_math=False)
    axes.legend(frameon=False, loc="lower left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
