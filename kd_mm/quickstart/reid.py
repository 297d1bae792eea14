"""The quickstart of re-identification: drawn people, synthetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.fileio import load

from kd_mm.apis.retrieval import select_queries
from kd_mm.evaluation.draw_retrieval import RetrievalResult, write_retrieval
from kd_mm.evaluation.reid_distances import JUNK, Images
from kd_mm.evaluation.reid_metric import gather, read_samples
from kd_mm.evaluation.reid_rank import top_images
from kd_mm.quickstart.run import Quickstart
from kd_mm.utils.tables import Column

#: Networks in the picture by row of the table, and how many queries at equal steps through the test data.
_SHOWN = {"student, MTKD-SSR": "MTKD-SSR", "student alone": "alone", "teacher": "teacher"}
_QUERIES = 4


def draw(homes: Mapping[str, Sequence[Path]], path: Path) -> None:
    """Draw queries with what three networks find first, and their CMC curves, of the first seed."""
    sides = {name: _embedded(homes[row][0] / "predictions.pkl") for row, name in _SHOWN.items()}
    tops = {name: top_images(query, gallery) for name, (query, gallery) in sides.items()}
    first = next(iter(tops.values()))
    query, gallery = next(iter(sides.values()))
    selected = select_queries(first.average_precision, _QUERIES, "even")
    result = RetrievalResult(
        query, gallery, tops, selected, "Cosine distance, camera rule on; queries at equal steps; first seed"
    )
    write_retrieval(result, path, "Re-identification of drawn people (synthetic)")


def _embedded(path: Path) -> tuple[Images, Images]:
    """Return queries and gallery, without junk."""
    images = [image for image in read_samples(load(str(path)), camera_rule=True) if image.pid != JUNK]
    return gather(images, "query"), gather(images, "gallery")


PEOPLE = Quickstart(
    name="quickstart-reid",
    configs={
        "teacher": "teacher_people",
        "student alone": "student_people",
        "student, KD": "kd_teacher_student_people",
        "student, RKD": "rkd_teacher_student_people",
        "student, MTKD-SSR": "mtkd-ssr_teacher_student_people",
    },
    metrics=("reid/mAP", "reid/mINP", "reid/Rank-1"),
    metric_title="test mAP",
    columns=(
        Column("reid/mAP", "mAP (%)", spread=True),
        Column("reid/mINP", "mINP (%)", spread=True),
        Column("reid/Rank-1", "Rank-1 (%)", spread=True),
        Column("params", "parameters", ".1f", 1e-3, " k"),
        Column("macs", "multiply-adds", ".2f", 1e-6, " M"),
        Column("seconds", "seconds", ".0f"),
    ),
    seeds=(0, 1, 2),
    draw=draw,
    save_predictions=True,
)
