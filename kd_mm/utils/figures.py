"""Figures without pyplot's global state, and PNG files of them."""

import io
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

#: Colour-blind safe (Okabe and Ito).
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
RIGHT, WRONG = "#009E73", "#D55E00"


def new_rows(rows: int, images: int, panels: int, title: str) -> tuple[Figure, list[list[Axes]], list[Axes]]:
    """Return a figure with rows of images and, below them, panels side by side."""
    figure = Figure(figsize=(14, 1.75 * rows + 5.2), dpi=85, layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    grid = figure.add_gridspec(2, 1, height_ratios=(1.75 * rows, 4.9))
    upper, lower = grid[0].subgridspec(rows, images, wspace=0.02, hspace=0.02), grid[1].subgridspec(1, panels)
    pictures = [[figure.add_subplot(upper[i, j]) for j in range(images)] for i in range(rows)]
    for axes in (axes for row in pictures for axes in row):
        axes.set(xticks=[], yticks=[])
    return figure, pictures, [plain_axes(figure.add_subplot(lower[0, j])) for j in range(panels)]


def plain_axes(axes: Axes) -> Axes:
    """Leave out the frame above and on the right, and draw a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return axes


def to_png(figure: Figure, colors: int | None = None, description: str | None = None) -> bytes:
    """Return a figure as the content of a PNG file.

    Args:
        figure: Any.
        colors: At most so many colours (photographs take a fifth then).
        description: Text that the file holds under ``Description``, where ``colors`` is not given.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Description": description} if description else None)
    if colors is not None:
        with Image.open(buffer) as image:
            # By coverage, not by count: the colours of thin lines stay.
            rgb = image.convert("RGB")
            reduced = rgb.quantize(colors, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        reduced.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def draw_comparison(scores: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Return a figure with the mean, the standard deviation as error bar and every single run of each row."""
    names = [textwrap.fill(row, 36) for row in scores]  # the longest leave the plot its width
    lines = sum(max(1, 0.6 * (name.count("\n") + 1)) for name in names)
    figure = Figure(figsize=(7.0, 1.2 + 0.35 * lines), layout="constrained")
    axes = plain_axes(figure.add_subplot())
    for position, runs in enumerate(scores.values()):
        spread = float(np.std(runs, ddof=1)) if len(runs) > 1 else 0.0
        axes.errorbar([float(np.mean(runs))], [position], xerr=[spread], fmt="o", capsize=4, color="C0")
        axes.plot(list(runs), [position] * len(runs), ".", color="0.6", zorder=0)
    axes.set_yticks(range(len(scores)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"{title}: mean, standard deviation, single runs")
    return figure
