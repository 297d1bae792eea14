"""The quickstart of detection: handwritten digits in scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from mmengine.fileio import load
from torchvision.ops import box_iou

from kd_mm.evaluation.detection_metric import ImageBoxes, read_sample
from kd_mm.quickstart.curves import (
    FINAL,
    REFERENCE,
    TERMS,
    draw_curve,
    draw_last,
    draw_losses,
    legend_below,
    read_logs,
    seeds_text,
)
from kd_mm.quickstart.digit_scenes import DigitScenes, write_digit_scenes
from kd_mm.quickstart.run import Quickstart
from kd_mm.utils.atomic_files import replace_file
from kd_mm.utils.figures import COLORS, RIGHT, WRONG, new_rows, to_png

METRICS = ("voc07/mAP", "voc12/mAP", "coco/mAP")
#: Scenes in the picture: the first of the test data with at least so many objects that are not difficult.
_SCENES, _LEAST = 6, 3
#: Detections with a lower score are not drawn.
_SCORE = 0.35
_TERMS = {
    "loss_cls": "task: the student's own classes",
    "loss_bbox": "task: its boxes",
    **{key: label for key, label in TERMS.items() if key != "loss_student"},
    "kd": "KD: class maps, student against teacher",
}
_CLASSES: Sequence[str] = DigitScenes.METAINFO["classes"]


def draw(homes: Mapping[str, Sequence[Path]], path: Path) -> None:
    """Draw scenes with boxes, and below them losses and mAP over the epochs."""
    figure, scenes, curves = new_rows(4, _SCENES, 2, "Distilling a detector: handwritten digits in scenes")
    _draw_scenes(figure, scenes, homes)
    _draw_curves(curves, homes)
    replace_file(path, to_png(figure, colors=256))


def _draw_scenes(figure: Figure, panels: list[list[Axes]], homes: Mapping[str, Sequence[Path]]) -> None:
    compared = ("teacher", "student alone", "student, MTKD-SSR")
    found = {row: _predictions(homes[row][0] / "predictions.pkl") for row in compared}
    # Stored runs may be drawn from another current folder.
    write_digit_scenes(Path(found["teacher"][0].name).parents[2])
    scenes = [index for index, boxes in enumerate(found["teacher"]) if (boxes.objects[:, 5] == 0).sum() >= _LEAST]
    titles = ["ground truth\n(dashed: difficult)", *(row.replace(", ", ",\n") for row in compared)]
    for line, row, title in zip(panels, ("", *compared), titles, strict=True):
        line[0].set_ylabel(title, fontsize=10)
        for axes, index in zip(line, scenes, strict=False):
            boxes = found[row or "teacher"][index]
            axes.imshow(mmcv.imread(boxes.name, channel_order="rgb"))
            (_draw_detections if row else _draw_objects)(axes, boxes)
    figure.supxlabel(
        f"Boxes: detections with a score of at least {_SCORE:.2f}, green where class and position (IoU 0.5) are right, "
        "red where not; scenes are the first of the test data with three objects or more; first seed.",
        fontsize=9,
    )


def _predictions(path: Path) -> list[ImageBoxes]:
    return [read_sample(sample, _CLASSES) for sample in load(str(path))]


def _draw_objects(axes: Axes, boxes: ImageBoxes) -> None:
    for *box, label, ignored in boxes.objects:
        _draw_box(axes, box, _CLASSES[int(label)], FINAL, "--" if ignored else "-")


def _draw_detections(axes: Axes, boxes: ImageBoxes) -> None:
    detections, objects = boxes.detections[boxes.detections[:, 4] >= _SCORE], boxes.objects
    overlaps = box_iou(torch.as_tensor(detections[:, :4]).double(), torch.as_tensor(objects[:, :4]).double()).numpy()
    right = ((overlaps >= 0.5) & (detections[:, 5:] == objects[:, 4])).any(axis=1)
    for (*box, score, label), is_right in zip(detections, right, strict=True):
        _draw_box(axes, box, f"{_CLASSES[int(label)]} {100 * score:.0f}", RIGHT if is_right else WRONG)


def _draw_box(axes: Axes, box: Sequence[float], text: str, color: str, line: str = "-") -> None:
    """Draw a box, in pixels, and its label above it, or inside at the upper border of the image."""
    left, top, right, bottom = np.asarray(box, dtype=float) - 0.5  # a pixel's centre is its coordinate
    frame = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, linestyle=line)
    frame.set(linewidth=1.3, path_effects=[withStroke(linewidth=2.6, foreground="white")])
    axes.add_patch(frame)
    background = {"boxstyle": "square,pad=0.1", "facecolor": color, "edgecolor": "none", "alpha": 0.85}
    side = "bottom" if top > 8 else "top"
    axes.text(left, top, text, color="white", fontsize=6.5, bbox=background, va=side, ha="left", clip_on=True)


def _draw_curves(panels: list[Axes], homes: Mapping[str, Sequence[Path]]) -> None:
    losses, scores = panels
    reviewed = read_logs(homes["student, MTKD-SSR"])
    draw_losses(losses, reviewed, _TERMS)
    losses.set_title(f"Loss terms ({seeds_text(reviewed)})", fontsize=10)
    rows = (("student, MTKD-SSR", FINAL), ("student, KD", COLORS[1]), ("student alone", REFERENCE))
    for row, color in rows:
        draw_curve(scores, read_logs(homes[row]), METRICS[0], row, color=color, linewidth=1.6)
    draw_last(scores, read_logs(homes["teacher"]), METRICS[0], "teacher, after its last epoch", COLORS[0])
    scores.set(xlabel="epoch", ylabel="VOC07 mAP on the validation scenes (%)")
    scores.set_title(f"Detection ({seeds_text(reviewed)})", fontsize=10)
    legend_below(losses, 2)
    legend_below(scores, 2)


SCENES = Quickstart(
    name="quickstart-detection",
    configs={
        "teacher": "teacher_scenes",
        "student alone": "student_scenes",
        "student, KD": "kd_teacher_student_scenes",
        "student, MTKD-SSR": "mtkd-ssr_teacher_student_scenes",
    },
    metrics=METRICS,
    metric_title="test mAP (VOC07)",
    columns={"voc07/mAP": "VOC07 mAP (%)", "voc12/mAP": "VOC12 mAP (%)", "coco/mAP": "COCO mAP (%)"},
    seeds=(0, 1, 2),
    draw=draw,
    with_exits=True,
    save_predictions=True,
)
