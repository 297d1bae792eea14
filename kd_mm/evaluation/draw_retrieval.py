"""Queries and what re-identification networks find for them with CMC curves, as one PNG file."""

from dataclasses import dataclass
from pathlib import Path

import mmcv
import numpy as np
from matplotlib.axes import Axes
from mmengine.fileio import get
from numpy.typing import NDArray

from kd_mm.evaluation.reid_distances import Images
from kd_mm.evaluation.reid_rank import TopImages
from kd_mm.utils.atomic_files import replace_file
from kd_mm.utils.figures import COLORS, RIGHT, WRONG, new_rows, to_png

#: The longest rank of the curves.
_LAST_RANK = 20


@dataclass(frozen=True)
class RetrievalResult:
    """Queries and gallery, and what each network finds.

    Attributes:
        query: The queries.
        gallery: The gallery, without junk.
        tops: By name of the network, the student first.
        selected: Numbers of the queries to show.
        setting: How images were ranked, for people.
    """

    query: Images
    gallery: Images
    tops: dict[str, TopImages]
    selected: list[int]
    setting: str

    def right(self, query: int, image: int) -> bool:
        """Return whether a gallery image shows the person of a query."""
        return bool(self.query.pids[query] == self.gallery.pids[image])


def write_retrieval(result: RetrievalResult, path: str | Path, title: str) -> None:
    """Write a picture of queries and what is found for them, with CMC curves below, atomically.

    Right images have a green frame, wrong ones a red, dashed one; images of the query's person from
    its own camera do not count and are left out.

    Args:
        result: Queries and what was found.
        path: Ends in ``.png``.
        title: Heading.

    Raises:
        ValueError: Another ending.
        FileNotFoundError: An image is gone.
    """
    check_ending(path)
    images = max(top.images.shape[1] for top in result.tops.values())
    rows = len(result.selected) * len(result.tops)
    figure, pictures, (panel,) = new_rows(rows, 1 + images, 1, f"{title}\n{result.setting}")
    lines = [(query, name, top) for query in result.selected for name, top in result.tops.items()]
    for row, (query, name, top) in zip(pictures, lines, strict=True):
        for axes in row:
            axes.axis("off")
        about = f"{name}, AP {100 * top.average_precision[query]:.1f}\n{_label(result, query)}"
        _draw_image(row[0], result.query.paths[query], about, None)
        found = zip(row[1:], top.images[query].tolist(), top.distances[query], strict=False)
        for rank, (axes, image, distance) in enumerate(found, 1):
            if image >= 0:
                label = f"{rank}: {_label(result, query, image)}, {distance:.3f}"
                _draw_image(axes, result.gallery.paths[image], label, result.right(query, image))
    draw_cmc(panel, result.tops)
    replace_file(path, to_png(figure))


def check_ending(path: str | Path) -> None:
    """Raise ``ValueError`` for a file that :func:`write_retrieval` would not write."""
    if Path(path).suffix != ".png":
        raise ValueError(f"{path}: give a name that ends in .png")


def draw_cmc(axes: Axes, tops: dict[str, TopImages]) -> None:
    """Draw the CMC curve of each network: the share of queries that found their person at a rank or before."""
    for color, (name, top) in zip(COLORS, tops.items(), strict=False):
        cmc = 100 * top.measures["cmc"][:_LAST_RANK]
        label = f"{name}: Rank-1 {cmc[0]:.1f}, mAP {100 * top.measures['mAP']:.1f}"
        axes.plot(np.arange(1, len(cmc) + 1), cmc, color=color, marker="o", markersize=3, linewidth=1.6, label=label)
    axes.set(xlabel="rank", ylabel="queries whose person is found (%)")
    axes.set_xticks([1, 5, 10, 15, 20])
    axes.legend(frameon=False, loc="lower right")


def _draw_image(axes: Axes, path: str, label: str, right: bool | None) -> None:
    axes.axis("on")
    axes.imshow(_read(path)[..., ::-1])
    axes.set_xlabel(label, fontsize=7, labelpad=2)
    for spine in axes.spines.values():
        spine.set_color("#999999" if right is None else RIGHT if right else WRONG)
        spine.set_linewidth(3)
        spine.set_linestyle((0, (2, 0.8)) if right is False else "-")


def _label(result: RetrievalResult, query: int, image: int | None = None) -> str:
    side, number = (result.query, query) if image is None else (result.gallery, image)
    pid = int(side.pids[number])
    name = "nobody" if image is not None and pid == 0 and not result.right(query, image) else f"{pid:04d}"
    return name if side.camids is None else f"{name} c{int(side.camids[number])}"


def _read(path: str) -> NDArray[np.uint8]:
    if not path:
        raise ValueError("data samples have no img_path to show: add 'img_path' to meta_keys of PackInputs")
    return mmcv.imfrombytes(get(path))
