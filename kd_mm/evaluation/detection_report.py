"""Detection results as a text table."""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich.box import ASCII
from rich.table import Table

from kd_mm.evaluation.detection_ap import DetectionAP
from kd_mm.utils.tables import render

_COUNTS = ("objects", "ignored", "detections")
_MEASURES = ("recall", "VOC07 AP", "VOC12 AP", "COCO AP", "AP50", "AP75")


def describe_data(names: Sequence[str], other: str | None) -> str:
    """Return the years of VOC (``VOC2007`` in the paths of images) and ``other`` ones with their numbers of images."""
    found = [re.search(r"(?:^|[/\\])(VOC\d{4})[/\\]", name) for name in names]
    counts = dict(sorted(Counter(match[1] for match in found if match).items()))
    rest = len(names) - sum(counts.values())
    if rest:
        name = str(other or "data of no known year")
        counts[name] = counts.get(name, 0) + rest
    return " + ".join(f"{name} ({count:,} {'image' if count == 1 else 'images'})" for name, count in counts.items())


def detection_table(data: str, classes: Sequence[str], found: DetectionAP, iou: float, inclusive: bool) -> str:
    """Return a table of all classes and their means, in percent to two digits, under a description of the data."""
    counts = "1 class" if len(classes) == 1 else f"{len(classes)} classes"
    lines = [f"Detection on {data}; {counts}: {', '.join(classes)}"]
    table = Table(box=ASCII, pad_edge=False, show_footer=False)
    table.add_column("class", overflow="fold")
    for column in (*_COUNTS, *_MEASURES):
        table.add_column(column, justify="right", no_wrap=True)
    recall = np.divide(found.found, found.objects, out=np.full(len(classes), np.nan), where=found.objects > 0)
    coco = found.coco[:, 0]
    measures = np.stack([recall, found.voc07, found.voc12, coco.mean(axis=1), coco[:, 0], coco[:, 5]], axis=1)
    counted = np.stack([found.objects, found.ignored, found.detections], axis=1)
    for label, name in enumerate(classes):
        cells = *(f"{n:,}" for n in counted[label]), *map(_percent, measures[label])
        table.add_row(name, *cells, end_section=label == len(classes) - 1)
    known = measures[found.objects > 0]
    means = known.mean(axis=0) if len(known) else np.full(measures.shape[1], np.nan)
    table.add_row("mean", *(f"{n:,}" for n in counted.sum(axis=0)), *map(_percent, means))
    lines.append(render(table, width=200))
    summary = {name: _percent(value) for name, value in found.coco_summary.items()}
    sizes = ", ".join(f"{size} {summary[f'AP_{size}']}" for size in ("small", "medium", "large"))
    recalls = ", ".join(f"{key} {summary[key]}" for key in ("AR@1", "AR@10", "AR@100"))
    lines.append(f"COCO AP of objects {sizes}; {recalls}")
    pixel = "inclusive corners, x2 - x1 + 1" if inclusive else "x2 - x1"
    lines.append(f"recall and VOC AP at IoU {iou:g} (widths {pixel}); ignored objects are VOC's difficult ones")
    return "\n".join(lines)


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"
