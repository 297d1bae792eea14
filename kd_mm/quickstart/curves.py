"""Curves of training runs, drawn from the scalars that mmengine writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kd_mm.utils.figures import COLORS, plain_axes

Records = Sequence[Mapping[str, Any]]
#: The network's own logits are black.
FINAL, REFERENCE = "#000000", "#999999"
#: Label by scalar of the loss terms of MTKD-SSR.
TERMS = {
    "loss_student": "task: the student's logits against the label",
    "aux": "aux: each exit against the label",
    "scd": "scd: stage channels, student against teacher",
    "cwd": "cwd: channels over positions, student against teacher",
    "srd": "srd: stage logits, student against teacher",
    "review": "review: each exit against the next deeper logits of the student",
}


def read_logs(work_dirs: Sequence[Path]) -> list[Records]:
    """Return what each run logged, one dict a line of its newest ``vis_data/scalars.json``.

    Raises:
        FileNotFoundError: A work dir holds none.
    """
    logs: list[Records] = []
    for work_dir in work_dirs:
        files = sorted(work_dir.glob("*/vis_data/scalars.json"))
        if not files:
            raise FileNotFoundError(f"{work_dir} holds no */vis_data/scalars.json: no run has logged there")
        logs.append([json.loads(line) for line in files[-1].read_text().splitlines()])
    return logs


def curve(runs: Sequence[Records], key: str, x: str = "step") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the positions ``(P,)`` at which all R runs have the scalar ``key``, and its values ``(R, P)``.

    Positions are those of the scalar ``x``; ``"step"`` is the epoch in validation records.
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
    """Draw loss terms, given by scalar and label, over the epochs on a logarithmic scale, those that were logged."""
    for color, (key, label) in zip((FINAL, *COLORS), terms.items(), strict=False):
        draw_curve(axes, runs, key, label, x="epoch", color=color, linewidth=1.6)
    axes.set(yscale="log", xlabel="epoch", ylabel="loss (mean over the epoch)")


def draw_exits(axes: Axes, runs: Sequence[Records]) -> None:
    """Draw what a :class:`kd_mm.hooks.ExitProbeHook` logged: the student's exits per epoch, the teacher's dashed."""
    for part, label, color in _parts(runs, "student"):
        draw_curve(axes, runs, f"exit/student_{part}", f"student, {label}", color=color, linewidth=1.6)
    for part, label, color in _parts(runs, "teacher"):
        draw_last(axes, runs, f"exit/teacher_{part}", f"teacher, {label}", color)
    axes.set(xlabel="epoch", ylabel="accuracy on the validation images (%)")


def draw_last(axes: Axes, runs: Sequence[Records], key: str, label: str, color: str) -> None:
    """Draw the mean of the last values of a scalar as a dashed line."""
    height = float(curve(runs, key)[1][:, -1].mean())
    axes.axhline(height, color=color, linestyle=(0, (4, 3)), linewidth=1.2, label=f"{label} ({height:.1f})")


def _parts(runs: Sequence[Records], side: str) -> list[tuple[str, str, str]]:
    """Return ending of the scalar, label and colour of each exit that was probed, and of the network's own logits."""
    keys = {key for run in runs for record in run for key in record if key.startswith(f"exit/{side}_")}
    stages = sorted(int(key.rpartition("stage")[2]) for key in keys if "_stage" in key)
    parts = [(f"stage{i}", f"exit {i}", COLORS[(i - 1) % len(COLORS)]) for i in stages]
    return [*parts, ("final", "own logits", FINAL)] if f"exit/{side}_final" in keys else parts


def seeds_text(runs: Sequence[Records]) -> str:
    """Return what a drawn line stands for."""
    return f"mean and range of {len(runs)} seeds" if len(runs) > 1 else "one seed"


def legend_below(axes: Axes, columns: int = 2) -> None:
    """Put the legend under a panel, where it hides no curve."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=columns, frameon=False, fontsize=9)


def new_figure(panels: int, title: str) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels side by side, without touching pyplot's global state."""
    figure = Figure(figsize=(6.4 * panels, 5.6), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    return figure, [plain_axes(figure.add_subplot(1, panels, i + 1)) for i in range(panels)]
