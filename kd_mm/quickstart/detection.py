"""The quickstart of detection: handwritten digits in scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import mmcv
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmengine.fileio import load

from kd_mm.evaluation.detection_metric import ImageBoxes, read_sample
from kd_mm.quickstart.box_plots import draw_detections, draw_objects
from kd_mm.quickstart.curves import FINAL, REFERENCE, TERMS, curve, draw_curve, draw_losses, seeds_text
from kd_mm.quickstart.digit_scenes import DigitScenes, write_digit_scenes
from kd_mm.quickstart.run import Quickstart, read_logs
from kd_mm.utils.atomic_files import replace_file
from kd_mm.utils.figures import COLORS, legend_below, new_rows, to_png
from kd_mm.utils.tables import Column

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
    # Kept runs may be drawn from another current folder.
    write_digit_scenes(Path(found["teacher"][0].name).parents[2])
    scenes = [index for index, boxes in enumerate(found["teacher"]) if (boxes.objects[:, 5] == 0).sum() >= _LEAST][
        :_SCENES
    ]
    titles = ["ground truth\n(dashed: difficult)", *(row.replace(", ", ",\n") for row in compared)]
    for line, row, title in zip(panels, ("", *compared), titles, strict=True):
        line[0].set_ylabel(title, fontsize=10)
        for axes, index in zip(line, scenes, strict=False):
            boxes = found[row or "teacher"][index]
            image = mmcv.imread(boxes.name, channel_order="rgb")
            axes.imshow(image)
            if row:
                draw_detections(axes, boxes.detections, boxes.objects, _CLASSES, _SCORE)
            else:
                draw_objects(axes, boxes.objects, _CLASSES)
    figure.supxlabel(
        f"Boxes: detections with a score of at least {_SCORE:.2f}, green where class and position (IoU 0.5) are right, "
        "red where not; scenes are the first of the test data with three objects or more; first seed.",
        fontsize=9,
    )


def _predictions(path: Path) -> list[ImageBoxes]:
    return [read_sample(sample, _CLASSES) for sample in load(str(path))]


def _draw_curves(panels: list[Axes], homes: Mapping[str, Sequence[Path]]) -> None:
    losses, scores = panels
    reviewed = read_logs(homes["student, MTKD-SSR"])
    draw_losses(losses, reviewed, _TERMS)
    losses.set_title(f"Loss terms ({seeds_text(reviewed)})", fontsize=10)
    rows = (("student, MTKD-SSR", FINAL), ("student, KD", COLORS[1]), ("student alone", REFERENCE))
    for row, color in rows:
        draw_curve(scores, read_logs(homes[row]), METRICS[0], row, color=color, linewidth=1.6)
    last = float(curve(read_logs(homes["teacher"]), METRICS[0])[1][:, -1].mean())
    label = f"teacher, after its last epoch ({last:.1f})"
    scores.axhline(last, color=COLORS[0], linestyle=(0, (4, 3)), linewidth=1.2, label=label)
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
    columns=(
        Column("voc07/mAP", "VOC07 mAP (%)", spread=True),
        Column("voc12/mAP", "VOC12 mAP (%)", spread=True),
        Column("coco/mAP", "COCO mAP (%)", spread=True),
        Column("params", "parameters", ".1f", 1e-3, " k"),
        Column("macs", "multiply-adds", ".1f", 1e-6, " M"),
        Column("seconds", "seconds", ".0f"),
    ),
    seeds=(0, 1, 2),
    draw=draw,
    save_predictions=True,
)
