"""Queries and what re-identification networks find for them, as one PNG or one HTML page with CMC curves."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import mmcv
import numpy as np
from matplotlib.axes import Axes
from mmengine.fileio import get
from numpy.typing import NDArray

from kd_mm.evaluation.reid_distances import Images
from kd_mm.evaluation.reid_rank import TopImages
from kd_mm.utils.atomic_files import replace_file
from kd_mm.utils.figures import COLORS, RIGHT, WRONG, new_figure, new_rows, to_png

#: Height of an image on the page in pixels, and the longest rank of the curves.
_HEIGHT, _LAST_RANK = 128, 20
_STYLE = f"""
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 24px; color: #222; background: #fff; }}
table {{ border-collapse: collapse; margin: 12px 0; }} td, th {{ padding: 2px 12px 2px 0; text-align: right; }}
td:first-child, th:first-child {{ text-align: left; }}
h2 {{ font-size: 15px; margin: 24px 0 4px; }}
.row {{ display: flex; gap: 8px; align-items: flex-start; margin: 4px 0; }}
.name {{ width: 80px; padding-top: 60px; }} figure {{ margin: 0; text-align: center; font-size: 11px; }}
img.image {{ height: {_HEIGHT}px; border: 5px solid #999; display: block; margin: 0 auto; }}
.right img.image {{ border-color: {RIGHT}; }} .wrong img.image {{ border: 5px dashed {WRONG}; }}
"""


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
    """Write a page or a picture, atomically.

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
    if Path(path).suffix == ".html":
        replace_file(path, _page(result, title).encode())
    else:
        _picture(result, path, title)


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


def _picture(result: RetrievalResult, path: str | Path, title: str) -> None:
    images = max(top.images.shape[1] for top in result.tops.values())
    rows = len(result.selected) * len(result.tops)
    figure, pictures, (panel,) = new_rows(rows, 1 + images, 1, f"{title}\n{result.setting}")
    lines = [(query, name, top) for query in result.selected for name, top in result.tops.items()]
    for row, (query, name, top) in zip(pictures, lines, strict=True):
        for axes in row:
            axes.axis("off")
        _draw_image(row[0], result.query.paths[query], f"{name}\n{_label(result, query)}", None)
        for axes, image in zip(row[1:], top.images[query].tolist(), strict=False):
            if image >= 0:
                _draw_image(axes, result.gallery.paths[image], _label(result, query, image), result.right(query, image))
    draw_cmc(panel, result.tops)
    replace_file(path, to_png(figure))


def _draw_image(axes: Axes, path: str, label: str, right: bool | None) -> None:
    axes.axis("on")
    axes.imshow(_read(path)[..., ::-1])
    axes.set_xlabel(label, fontsize=7, labelpad=2)
    for spine in axes.spines.values():
        spine.set_color("#999999" if right is None else RIGHT if right else WRONG)
        spine.set_linewidth(3)
        spine.set_linestyle((0, (2, 0.8)) if right is False else "-")


def _page(result: RetrievalResult, title: str) -> str:
    figure, (axes,) = new_figure(1, "CMC")
    draw_cmc(axes, result.tops)
    parts = [
        f"<!DOCTYPE html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>",
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1><p>{html.escape(result.setting)}; {len(result.query):,} ",
        f"queries, {len(result.gallery):,} gallery images. Green frame: the query's person; red and dashed: another ",
        "or none. The person's images from the query's own camera do not count.</p>",
        _measures(result.tops),
        f"<img alt='CMC curves' width='640' src='data:image/png;base64,{_base64(to_png(figure))}'>",
    ]
    for query in result.selected:
        scores = ", ".join(f"{name} {100 * top.average_precision[query]:.1f}" for name, top in result.tops.items())
        parts.append(f"<h2>Query {html.escape(_label(result, query))}; average precision: {html.escape(scores)}</h2>")
        parts.extend(_row(result, query, name, top) for name, top in result.tops.items())
    return "\n".join(parts) + "\n</html>\n"


def _row(result: RetrievalResult, query: int, name: str, top: TopImages) -> str:
    cells = [f"<div class='name'>{html.escape(name)}</div>", _figure(result.query.paths[query], "query", "query")]
    for rank, image in enumerate(top.images[query].tolist(), 1):
        if image >= 0:
            kind = "right" if result.right(query, image) else "wrong"
            text = f"{rank}: {_label(result, query, image)}, {top.distances[query, rank - 1]:.3f}"
            cells.append(_figure(result.gallery.paths[image], text, kind))
    return f"<div class='row'>{''.join(cells)}</div>"


def _figure(path: str, text: str, kind: str) -> str:
    image = _read(path)
    width = max(round(image.shape[1] * _HEIGHT / image.shape[0]), 1)
    small = cv2.resize(image, (width, _HEIGHT), interpolation=cv2.INTER_AREA)
    data = _base64(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
    caption = html.escape(text)
    picture = f"<img class='image' alt='{caption}' title='{html.escape(path)}' src='data:image/jpeg;base64,{data}'>"
    return f"<figure class='{kind}'>{picture}<figcaption>{caption}</figcaption></figure>"


def _measures(tops: dict[str, TopImages]) -> str:
    means, ranks = ("mAP", "mAP_trapz", "mINP"), (1, 5, 10)
    rows = []
    for name, top in tops.items():
        values = [*(top.measures[key] for key in means), *(top.measures["cmc"][rank - 1] for rank in ranks)]
        cells = "".join(f"<td>{100 * value:.2f}</td>" for value in values)
        rows.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("%", *means, *(f"Rank-{rank}" for rank in ranks)))
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _label(result: RetrievalResult, query: int, image: int | None = None) -> str:
    side, number = (result.query, query) if image is None else (result.gallery, image)
    pid = int(side.pids[number])
    name = "nobody" if image is not None and pid == 0 and not result.right(query, image) else f"{pid:04d}"
    return name if side.camids is None else f"{name} c{int(side.camids[number])}"


def _read(path: str) -> NDArray[np.uint8]:
    if not path:
        raise ValueError("data samples have no img_path to show: add 'img_path' to meta_keys of PackInputs")
    return mmcv.imfrombytes(get(path))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
