"""Detection results as a text table, as precision-recall pictures, and boxes as COCO's JSON files."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import ASCII
from rich.table import Table

from kd_mm.evaluation.detection_ap import DetectionAP
from kd_mm.utils.atomic_files import replace_file
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
    summary = {name: _percent(value) for name, value in found.coco_summary().items()}
    sizes = ", ".join(f"{size} {summary[f'AP_{size}']}" for size in ("small", "medium", "large"))
    recalls = ", ".join(f"{key} {summary[key]}" for key in ("AR@1", "AR@10", "AR@100"))
    lines.append(f"COCO AP of objects {sizes}; {recalls}")
    pixel = "inclusive corners, x2 - x1 + 1" if inclusive else "x2 - x1"
    lines.append(f"recall and VOC AP at IoU {iou:g} (widths {pixel}); ignored objects are VOC's difficult ones")
    return "\n".join(lines)


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def draw_precision_recall(found: DetectionAP, classes: Sequence[str], folder: str | Path, iou: float) -> None:
    """Write a ``<class>.png`` for each class that has objects to find: its curve, and the envelope that is averaged."""
    from matplotlib.figure import Figure

    from kd_mm.utils.figures import plain_axes, to_png

    used: set[str] = set()
    for label in np.flatnonzero(found.objects):
        recall, precision = found.curves[label]
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        figure = Figure(figsize=(6, 4.6), dpi=120, layout="constrained")
        axes = plain_axes(figure.add_subplot())
        start = np.append(0.0, recall), np.append(envelope[:1].sum(), envelope)
        axes.step(*start, where="pre", color="#D55E00", linewidth=1.2, label="interpolated")
        axes.plot(recall, precision, color="#0072B2", linewidth=1.6, label="measured")
        axes.set(xlim=(0, 1.01), ylim=(0, 1.03), xlabel="recall", ylabel=f"precision at IoU {iou:g}")
        areas = f"VOC07 AP {100 * found.voc07[label]:.2f}, VOC12 AP {100 * found.voc12[label]:.2f}"
        title = f"{classes[label]}: {areas} ({found.objects[label]:,} objects)"
        axes.set_title(title, fontsize=11, parse_math=False)
        axes.legend(frameon=False, loc="lower left")
        stem = re.sub(r"[^\w.-]+", "_", classes[label]) or "class"
        stem = f"{stem}_{label}" if stem in used else stem
        used.add(stem)
        replace_file(Path(folder) / f"{stem}.png", to_png(figure))


def write_coco_json(
    names: Sequence[str],
    detections: Sequence[NDArray[Any]],
    objects: Sequence[NDArray[Any]],
    classes: Sequence[str],
    prefix: str,
) -> tuple[str, str]:
    """Write ``<prefix>.gt.json`` and ``<prefix>.bbox.json`` for pycocotools and other tools, with full precision.

    Images and categories are numbered from 1 in the given order; ignored objects have ``iscrowd`` 1.

    Args:
        names: Path of each image.
        detections: ``(n, 6)`` of each image, see :func:`kd_mm.evaluation.detection_ap.detection_ap`.
        objects: ``(m, 6)`` of each image.
        classes: Class names.
        prefix: Path without its ending.

    Returns:
        The paths of the ground truth and of the detections.
    """
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, (found, wanted) in enumerate(zip(detections, objects, strict=True), 1):
        for x1, y1, x2, y2, label, ignored in wanted.astype(float).tolist():
            ids = {"id": len(annotations) + 1, "image_id": number, "category_id": int(label) + 1}
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            annotations.append({**ids, **box, "iscrowd": int(ignored)})
        for x1, y1, x2, y2, score, label in found.astype(float).tolist():
            ids = {"image_id": number, "category_id": int(label) + 1}
            results.append({**ids, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
    truth = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names, 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
        "annotations": annotations,
    }
    paths = f"{prefix}.gt.json", f"{prefix}.bbox.json"
    for path, content in zip(paths, (truth, results), strict=True):
        replace_file(path, (json.dumps(content) + "\n").encode())
    return paths
