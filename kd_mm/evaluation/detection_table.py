"""Detection results as text."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from rich.box import ASCII
from rich.console import Console
from rich.table import Table

from kd_mm.evaluation.coco import CocoResult
from kd_mm.evaluation.voc import VocResult

_COLUMNS = ("objects", "ignored", "detections", "recall", "VOC07 AP", "VOC12 AP", "COCO AP", "AP50", "AP75")


def detection_table(data: str, classes: Sequence[str], voc: VocResult, coco: CocoResult) -> str:
    """Return a table of all classes with their means, in percent to two digits, under a line that says what it is of.

    Args:
        data: The data set, with its years and numbers of images.
        classes: Class names, K.
        voc: VOC average precision.
        coco: COCO average precision.
    """
    counts = "1 class" if len(classes) == 1 else f"{len(classes)} classes"
    lines = [f"Detection on {data}; {counts}: {', '.join(classes)}"]
    table = Table(box=ASCII, pad_edge=False, show_footer=False)
    table.add_column("class", overflow="fold")
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    ignored = np.bincount(voc.table.object_labels[voc.table.ignored], minlength=len(classes))
    average = coco.ap[:, 0]
    measures = np.stack(
        [
            np.divide(voc.found, voc.objects, out=np.full(len(classes), np.nan), where=voc.objects > 0),
            voc.ap07,
            voc.ap12,
            average.mean(axis=1),
            average[:, 0],
            average[:, 5],
        ],
        axis=1,
    )
    for label, name in enumerate(classes):
        counted = (voc.objects[label], ignored[label], voc.detections[label])
        end = label == len(classes) - 1
        table.add_row(name, *(f"{int(n):,}" for n in counted), *map(_percent, measures[label]), end_section=end)
    known = measures[voc.objects > 0]
    means = known.mean(axis=0) if len(known) else np.full(measures.shape[1], np.nan)
    totals = (voc.objects.sum(), ignored.sum(), voc.detections.sum())
    table.add_row("mean", *(f"{int(n):,}" for n in totals), *map(_percent, means))
    text = io.StringIO()
    Console(file=text, width=200, color_system=None, markup=False, emoji=False).print(table)
    lines.extend(line.rstrip() for line in text.getvalue().splitlines())
    lines.append(_by_area(coco.summary()))
    pixel = "inclusive corners, x2 - x1 + 1" if voc.table.inclusive else "x2 - x1"
    lines.append(f"recall and VOC AP at IoU {voc.iou:g} (widths {pixel}); ignored objects are VOC's difficult ones")
    return "\n".join(lines)


def _by_area(summary: Mapping[str, float]) -> str:
    names = {"AP_small": "small", "AP_medium": "medium", "AP_large": "large"}
    average = ", ".join(f"{name} {_percent(summary[key])}" for key, name in names.items())
    recall = ", ".join(f"{key} {_percent(summary[key])}" for key in ("AR@1", "AR@10", "AR@100"))
    return f"COCO AP of objects {average}; {recall}"


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"
