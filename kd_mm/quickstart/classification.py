"""The quickstart of classification: handwritten digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kd_mm.quickstart.curves import (
    REFERENCE,
    TERMS,
    draw_curve,
    draw_exits,
    draw_losses,
    legend_below,
    new_figure,
    read_logs,
    seeds_text,
)
from kd_mm.quickstart.run import Quickstart
from kd_mm.utils.atomic_files import replace_file
from kd_mm.utils.figures import to_png

METRIC = "accuracy/top1"


def draw(homes: Mapping[str, Sequence[Path]], path: Path) -> None:
    """Draw loss terms and exits of the MTKD-SSR runs, with the student alone beside them."""
    reviewed, alone = read_logs(homes["student, MTKD-SSR"]), read_logs(homes["student alone"])
    seeds = seeds_text(reviewed)
    figure, (losses, exits) = new_figure(2, "MTKD-SSR on handwritten digits: the review at work")
    draw_losses(losses, reviewed, TERMS)
    losses.set_title(f"Loss terms, unweighted ({seeds})", fontsize=11)
    draw_exits(exits, reviewed)
    draw_curve(exits, alone, METRIC, "student trained alone", color=REFERENCE, linewidth=1.6)
    exits.set_title(f"Accuracy of each exit ({seeds})", fontsize=11)
    legend_below(losses, 1)
    legend_below(exits, 2)
    replace_file(path, to_png(figure))


DIGITS = Quickstart(
    name="quickstart",
    configs={
        "teacher": "teacher_digits",
        "student alone": "student_digits",
        "student, KD": "kd_teacher_student_digits",
        "student, MTKD-SSR": "mtkd-ssr_teacher_student_digits",
    },
    metrics=(METRIC,),
    metric_title="test accuracy",
    columns={METRIC: "test accuracy (%), last epoch", f"best/{METRIC}": "at best validation epoch"},
    seeds=(0, 1, 2, 3, 4),
    draw=draw,
)
