"""Curves of training runs, drawn from the scalars that mmengine writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from kd_mm.utils.figures import COLORS

Records = Sequence[Mapping[str, Any]]
#: The network's own logits are black.
FINAL, REFERENCE = "#000000", "#999999"
#: Label by scalar of the loss terms of MTKD-SSR.
TERMS = {
    "loss_student": "task: the student's logits against the label",
    "aux": "aux: each exit against the label",
    "scd": "scd: stage channels, student against teacher",
    "srd": "srd: stage logits, student against teacher",
    "review": "review: each exit against the next deeper logits of the student",
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
        x: What gives the position: ``"step"`` (the epoch in validation records), ``"epoch"`` or ``"iter"``.
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
    for color, (key, label) in zip((FINAL, *COLORS), terms.items(), strict=False):
        draw_curve(axes, runs, key, label, x="epoch", color=color, linewidth=1.6)
    axes.set(yscale="log", xlabel="epoch", ylabel="loss (mean over the epoch)")


def draw_student_exits(axes: Axes, runs: Sequence[Records]) -> None:
    """Draw the accuracy of each exit of the student, and of its own logits, per epoch.

    Args:
        axes: Where to draw.
        runs: The records of runs with a :class:`kd_mm.hooks.ExitProbeHook`.
    """
    for part, label, color in _parts(runs, "student"):
        draw_curve(axes, runs, f"exit/student_{part}", f"student, {label}", color=color, linewidth=1.6)
    axes.set(xlabel="epoch", ylabel="accuracy on the validation images (%)")


def draw_teacher_exits(axes: Axes, runs: Sequence[Records], teacher: str = "teacher") -> None:
    """Draw the accuracy of each exit of a frozen teacher, and of its own logits, as dashed lines in the same colours.

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
    """Return ending of the scalar, label and colour of each exit that was probed, and of the network's own logits."""
    keys = {key for run in runs for record in run for key in record if key.startswith(f"exit/{side}_")}
    stages = sorted(int(key.rpartition("stage")[2]) for key in keys if "_stage" in key)
    parts = [(f"stage{i}", f"exit {i}", COLORS[(i - 1) % len(COLORS)]) for i in stages]
    return [*parts, ("final", "own logits", FINAL)] if f"exit/{side}_final" in keys else parts


def seeds_text(runs: Sequence[Records]) -> str:
    """Return what a drawn line stands for."""
    return f"mean and range of {len(runs)} seeds" if len(runs) > 1 else "one seed"
