"""Pictures of distillation runs, drawn from the scalars that mmengine writes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from kd_mm.engine.atomic_files import replace_file

Records = Sequence[Mapping[str, Any]]
#: Colour-blind safe (Okabe and Ito), shallow to deep; the network's own answer is black.
STAGE_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
FINAL, REFERENCE = "#000000", "#999999"
#: Label by scalar of the loss terms of MTKD-SSR.
TERMS = {
    "loss_student": "task: the student's own answer against the label",
    "aux": "aux: each exit against the label",
    "scd": "scd: stage channels, student against teacher",
    "srd": "srd: stage answers, student against teacher",
    "review": "review: each exit against the student's next deeper answer",
}


def read_scalars(run: str | Path) -> list[dict[str, Any]]:
    """Return what a run logged, one dict a line of its newest ``vis_data/scalars.json``.

    Raises:
        FileNotFoundError: The work dir holds none.
    """
    files = sorted(Path(run).glob("*/vis_data/scalars.json"))
    if not files:
        raise FileNotFoundError(f"{run} holds no */vis_data/scalars.json: no run has logged there")
    return [json.loads(line) for line in files[-1].read_text().splitlines() if line.strip()]


def curve(runs: Sequence[Records], key: str, x: str = "step") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the positions ``(P,)`` at which every run has the scalar ``key``, and its values ``(R, P)``.

    Args:
        runs: The records of R runs.
        key: The scalar.
        x: What tells the position: ``"step"`` (the epoch in validation records), ``"epoch"`` or ``"iter"``.
    """
    series = [{record[x]: record[key] for record in run if key in record and x in record} for run in runs]
    shared = sorted(set.intersection(*map(set, series))) if series else []
    values = np.array([[line[at] for at in shared] for line in series], dtype=np.float64)
    return np.array(shared, dtype=np.float64), values


def draw_curve(axes: Axes, runs: Sequence[Records], key: str, label: str, x: str = "step", **style: Any) -> bool:
    """Draw the mean of a scalar over runs, and the range between the runs as a band; return whether there was any."""
    at, values = curve(runs, key, x)
    if not len(at):
        return False
    (line,) = axes.plot(at, values.mean(axis=0), label=label, **style)
    if len(values) > 1:
        axes.fill_between(at, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.15, linewidth=0)
    return True


def draw_losses(axes: Axes, runs: Sequence[Records], terms: Mapping[str, str]) -> None:
    """Draw loss terms over the epochs on a logarithmic scale.

    Args:
        axes: Where to draw.
        runs: The records of runs that differ in their seed.
        terms: Label by scalar; a scalar that was not logged is left out.
    """
    for color, (key, label) in zip((FINAL, *STAGE_COLORS), terms.items(), strict=False):
        draw_curve(axes, runs, key, label, x="epoch", color=color, linewidth=1.6)
    axes.set(yscale="log", xlabel="epoch", ylabel="loss (mean over the epoch)")


def draw_student_exits(axes: Axes, runs: Sequence[Records]) -> None:
    """Draw the accuracy of each exit of the student, and of its own answer, per epoch.

    Args:
        axes: Where to draw.
        runs: The records of runs with a :class:`kd_mm.hooks.ExitProbeHook`.
    """
    for part, label, color in _parts(runs, "student"):
        draw_curve(axes, runs, f"exit/student_{part}", f"student, {label}", color=color, linewidth=1.6)
    axes.set(xlabel="epoch", ylabel="accuracy on the validation images (%)")


def draw_teacher_exits(axes: Axes, runs: Sequence[Records], teacher: str = "teacher") -> None:
    """Draw the accuracy of each exit of a frozen teacher, and of its own answer, as dashed lines in the same colours.

    Args:
        axes: Where to draw.
        runs: The records of runs with a :class:`kd_mm.hooks.ExitProbeHook`.
        teacher: Name of the teacher.
    """
    for part, label, color in _parts(runs, teacher):
        height = float(curve(runs, f"exit/{teacher}_{part}")[1][:, -1].mean())
        name = f"{teacher}, {label} ({height:.1f})"
        axes.axhline(height, color=color, linestyle=(0, (4, 3)), linewidth=1.2, label=name)


def _parts(runs: Sequence[Records], side: str) -> list[tuple[str, str, str]]:
    """Return ending of the scalar, label and colour of each exit that was probed, and of the network's own answer."""
    keys = {key for run in runs for record in run for key in record if key.startswith(f"exit/{side}_")}
    stages = sorted(int(key.rpartition("stage")[2]) for key in keys if "_stage" in key)
    parts = [(f"stage{i}", f"exit {i}", STAGE_COLORS[(i - 1) % len(STAGE_COLORS)]) for i in stages]
    return [*parts, ("final", "own answer", FINAL)] if f"exit/{side}_final" in keys else parts


def new_figure(panels: int, title: str) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels side by side, without touching pyplot's global state."""
    figure = Figure(figsize=(6.4 * panels, 5.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13, fontweight="bold")
    return figure, [_plain(figure.add_subplot(1, panels, i + 1)) for i in range(panels)]


def new_rows(rows: int, images: int, panels: int, title: str) -> tuple[Figure, list[list[Axes]], list[Axes]]:
    """Return a figure with rows of images and, below them, panels side by side."""
    figure = Figure(figsize=(14, 1.75 * rows + 5.2), dpi=85, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13, fontweight="bold")
    grid = figure.add_gridspec(2, 1, height_ratios=(1.75 * rows, 4.9))
    upper, lower = grid[0].subgridspec(rows, images, wspace=0.02, hspace=0.02), grid[1].subgridspec(1, panels)
    pictures = [[figure.add_subplot(upper[i, j]) for j in range(images)] for i in range(rows)]
    for axes in (axes for row in pictures for axes in row):
        axes.set(xticks=[], yticks=[])
    return figure, pictures, [_plain(figure.add_subplot(lower[0, j])) for j in range(panels)]


def seeds_text(runs: Sequence[Records]) -> str:
    """Return what a drawn line stands for."""
    return f"mean and range of {len(runs)} seeds" if len(runs) > 1 else "one seed"


def _plain(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return axes


def legend_below(axes: Axes, columns: int = 2) -> None:
    """Put the legend under a panel, where it hides no curve."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=columns, frameon=False, fontsize=9)


def draw_comparison(scores: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Return a figure with the mean, the standard deviation as error bar and every single run of each row.

    Args:
        scores: Scores of the runs by row.
        title: Name of the score.
    """
    figure = Figure(figsize=(7.0, 1.2 + 0.35 * len(scores)), layout="constrained")
    axes = _plain(figure.add_subplot())
    for place, runs in enumerate(scores.values()):
        spread = float(np.std(runs, ddof=1)) if len(runs) > 1 else 0.0
        axes.errorbar([float(np.mean(runs))], [place], xerr=[spread], fmt="o", capsize=4, color="C0")
        axes.plot(list(runs), [place] * len(runs), ".", color="0.6", zorder=0)
    axes.set_yticks(range(len(scores)), list(scores))
    axes.invert_yaxis()
    axes.set_xlabel(f"{title}: mean, standard deviation, single runs")
    return figure


def save_png(figure: Figure, path: str | Path, colors: int | None = None) -> None:
    """Write a figure as PNG, whole or not at all, with at most so many colours (photographs take a fifth then)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    if colors is not None:
        with Image.open(buffer) as image:
            # By coverage, not by count: the colours of thin lines stay.
            rgb = image.convert("RGB")
            reduced = rgb.quantize(colors, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        reduced.save(buffer, "PNG", optimize=True)
    replace_file(path, buffer.getvalue())
