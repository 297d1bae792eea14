"""The quickstart of re-identification: drawn people, synthetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.fileio import load

from kd_mm.apis.retrieval import rank, split_images
from kd_mm.evaluation.draw_retrieval import write_retrieval
from kd_mm.evaluation.reid_metric import read_samples
from kd_mm.quickstart.run import Quickstart

#: Networks in the picture by row of the table, and how many queries at equal steps through the test data.
_NETWORKS = {"student, MTKD-SSR": "MTKD-SSR", "student alone": "alone", "teacher": "teacher"}
_QUERIES = 4


def draw(homes: Mapping[str, Sequence[Path]], path: Path) -> None:
    """Draw queries with what three networks find first, and their CMC curves, of the first seed."""
    files = {name: homes[row][0] / "predictions.pkl" for row, name in _NETWORKS.items()}
    embedded = {name: split_images(read_samples(load(str(file)), camera_rule=True)) for name, file in files.items()}
    setting = "Cosine distance, camera rule on; queries at equal steps; first seed"
    write_retrieval(rank(embedded, _QUERIES, "even", setting), path, "Re-identification of drawn people (synthetic)")


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
    columns={"reid/mAP": "mAP (%)", "reid/mINP": "mINP (%)", "reid/Rank-1": "Rank-1 (%)"},
    seeds=(0, 1, 2),
    draw=draw,
    save_predictions=True,
)
