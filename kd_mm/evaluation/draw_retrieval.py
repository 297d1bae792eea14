"""Queries and what re-identification networks find for them with CMC curves, as one PNG or one HTML page."""

import base64
import html
from collections.abc import Sequence
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
    """Write a picture, or a page with the measures above the picture, atomically.

    Right images have a green frame, wrong ones a red, dashed one; images of the query's person from
    its own camera do not count and are left out.

    Args:
        result: Queries and what was found.
        path: Ends in ``.html`` or ``.png``.
        title: Heading.

    Raises:
        ValueError: Another ending.
        FileNotFoundError: An image is gone.
    """
    check_endings([path])
    picture = _picture(result, title)
    replace_file(path, _page(result, title, picture).encode() if Path(path).suffix == ".html" else picture)


def check_endings(paths: Sequence[str | Path]) -> None:
    """Raise ``ValueError`` for a file that :func:`write_retrieval` would not write."""
    for path in paths:
        if Path(path).suffix not in (".html", ".png"):
            raise ValueError(f"{path}: give a name that ends in .html, for one page, or in .png, for one picture")


def draw_cmc(axes: Axes, tops: dict[str, TopImages]) -> None:
    """Draw the CMC curve of each network: the share of queries that found their person at a rank or before."""
    for color, (name, top) in zip(COLORS, tops.items(), strict=False):
        cmc = 100 * top.measures["cmc"][:_LAST_RANK]
        label = f"{name}: Rank-1 {cmc[0]:.1f}, mAP {100 * top.measures['mAP']:.1f}"
        axes.plot(np.arange(1, len(cmc) + 1), cmc, color=color, marker="o", markersize=3, linewidth=1.6, label=label)
    axes.set(xlabel="rank", ylabel="queries whose person is found (%)")
    axes.set_xticks([1, 5, 10, 15, 20])
    axes.legend(frameon=False, loc="lower right")


def _picture(result: RetrievalResult, title: str) -> bytes:
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
    return to_png(figure)


def _draw_image(axes: Axes, path: str, label: str, right: bool | None) -> None:
    axes.axis("on")
    axes.imshow(_read(path)[..., ::-1])
    axes.set_xlabel(label, fontsize=7, labelpad=2)
    for spine in axes.spines.values():
        spine.set_color("#999999" if right is None else RIGHT if right else WRONG)
        spine.set_linewidth(3)
        spine.set_linestyle((0, (2, 0.8)) if right is False else "-")


def _page(result: RetrievalResult, title: str, picture: bytes) -> str:
    data = base64.b64encode(picture).decode()
    return f"""<!DOCTYPE html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>
<body style='font: 14px system-ui, sans-serif; margin: 24px'>
<h1>{html.escape(title)}</h1><p>{html.escape(result.setting)}; {len(result.query):,} queries, {len(result.gallery):,}
gallery images. Green frame: the query's person; red and dashed: another or none. The person's images from the query's
own camera do not count. Below an image are its rank, identity, camera and distance.</p>
{_measures(result.tops)}
<img alt='queries, what is found for them, CMC curves' style='max-width: 100%' src='data:image/png;base64,{data}'>
</body></html>
"""


def _measures(tops: dict[str, TopImages]) -> str:
    means, ranks = ("mAP", "mAP_trapz", "mINP"), (1, 5, 10)
    rows = []
    for name, top in tops.items():
        values = [*(top.measures[key] for key in means), *(top.measures["cmc"][rank - 1] for rank in ranks)]
        cells = "".join(f"<td>{100 * value:.2f}</td>" for value in values)
        rows.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("%", *means, *(f"Rank-{rank}" for rank in ranks)))
    return f"<table style='text-align: right' cellpadding='4'><tr>{head}</tr>{''.join(rows)}</table>"


def _label(result: RetrievalResult, query: int, image: int | None = None) -> str:
    side, number = (result.query, query) if image is None else (result.gallery, image)
    pid = int(side.pids[number])
    name = "nobody" if image is not None and pid == 0 and not result.right(query, image) else f"{pid:04d}"
    return name if side.camids is None else f"{name} c{int(side.camids[number])}"


def _read(path: str) -> NDArray[np.uint8]:
    if not path:
        raise ValueError("data samples have no img_path to show: add 'img_path' to meta_keys of PackInputs")
    return mmcv.imfrombytes(get(path))
