"""Rankings as one PNG or one HTML page: each query, what was found for it, and CMC curves."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
from matplotlib.axes import Axes
from mmengine.fileio import get
from numpy.typing import NDArray

from kd_mm.apis.ranking import Found
from kd_mm.engine.atomic_files import replace_file
from kd_mm.evaluation.reid_rank import TopImages
from kd_mm.utils.figures import COLORS, new_figure, new_rows, to_png

RIGHT, WRONG = "#009E73", "#D55E00"
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


def write_ranking(found: Found, path: str | Path, title: str) -> None:
    """Write a page or a picture, whole or not at all.

    Right images have a green frame, wrong ones a red, dashed one; images of the query's person from
    its own camera do not count and are not shown.

    Args:
        found: Queries and what was found.
        path: Ends in ``.html`` or ``.png``.
        title: Heading.

    Raises:
        ValueError: Another ending.
        FileNotFoundError: An image is gone.
    """
    check_endings([path])
    if Path(path).suffix == ".html":
        replace_file(path, _page(found, title).encode())
    else:
        _picture(found, path, title)


def check_endings(paths: Sequence[str | Path]) -> None:
    """Raise ``ValueError`` for a file that :func:`write_ranking` would not write."""
    for path in paths:
        if Path(path).suffix not in (".html", ".png"):
            raise ValueError(f"{path}: give a name that ends in .html, for one page, or in .png, for one picture")


def draw_cmc(axes: Axes, tops: dict[str, TopImages]) -> None:
    """Draw CMC curves: the share of queries that have found their person at a rank or before.

    Args:
        axes: Where to draw.
        tops: What each network finds, by name.
    """
    for color, (name, top) in zip(COLORS, tops.items(), strict=False):
        cmc = 100 * top.measures["cmc"][:_LAST_RANK]
        label = f"{name}: Rank-1 {cmc[0]:.1f}, mAP {100 * top.measures['mAP']:.1f}"
        axes.plot(np.arange(1, len(cmc) + 1), cmc, color=color, marker="o", markersize=3, linewidth=1.6, label=label)
    axes.set(xlabel="rank", ylabel="queries whose person is found (%)")
    axes.set_xticks([1, 5, 10, 15, 20])
    axes.legend(frameon=False, loc="lower right")


def _picture(found: Found, path: str | Path, title: str) -> None:
    images = max(top.images.shape[1] for top in found.tops.values())
    rows = len(found.shown) * len(found.tops)
    figure, pictures, (panel,) = new_rows(rows, 1 + images, 1, f"{title}\n{found.setting}")
    lines = [(query, name, top) for query in found.shown for name, top in found.tops.items()]
    for row, (query, name, top) in zip(pictures, lines, strict=True):
        for axes in row:
            axes.axis("off")
        _show(row[0], found.query.paths[query], f"{name}\n{_label(found, query)}", None)
        for axes, image in zip(row[1:], top.images[query].tolist(), strict=False):
            if image >= 0:
                _show(axes, found.gallery.paths[image], _label(found, query, image), found.right(query, image))
    draw_cmc(panel, found.tops)
    replace_file(path, to_png(figure))


def _show(axes: Axes, path: str, label: str, right: bool | None) -> None:
    axes.axis("on")
    axes.imshow(_read(path)[..., ::-1])
    axes.set_xlabel(label, fontsize=7, labelpad=2)
    for spine in axes.spines.values():
        spine.set_color("#999999" if right is None else RIGHT if right else WRONG)
        spine.set_linewidth(3)
        spine.set_linestyle((0, (2, 0.8)) if right is False else "-")


def _page(found: Found, title: str) -> str:
    figure, (axes,) = new_figure(1, "CMC")
    draw_cmc(axes, found.tops)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    parts = [
        f"<!DOCTYPE html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>",
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1><p>{html.escape(found.setting)}; {len(found.query):,} ",
        f"queries, {len(found.gallery):,} gallery images. Green frame: the query's person; red and dashed: another or ",
        "none. The person's images from the query's own camera do not count.</p>",
        _measures(found.tops),
        f"<img alt='CMC curves' width='640' src='data:image/png;base64,{_base64(buffer.getvalue())}'>",
    ]
    for query in found.shown:
        scores = ", ".join(f"{name} {100 * top.average_precision[query]:.1f}" for name, top in found.tops.items())
        parts.append(f"<h2>Query {html.escape(_label(found, query))}; average precision: {html.escape(scores)}</h2>")
        parts.extend(_row(found, query, name, top) for name, top in found.tops.items())
    return "\n".join(parts) + "\n</html>\n"


def _row(found: Found, query: int, name: str, top: TopImages) -> str:
    cells = [f"<div class='name'>{html.escape(name)}</div>", _figure(found.query.paths[query], "query", "query")]
    for rank, image in enumerate(top.images[query].tolist(), 1):
        if image >= 0:
            kind = "right" if found.right(query, image) else "wrong"
            text = f"{rank}: {_label(found, query, image)}, {top.distances[query, rank - 1]:.3f}"
            cells.append(_figure(found.gallery.paths[image], text, kind))
    return f"<div class='row'>{''.join(cells)}</div>"


def _figure(path: str, text: str, kind: str) -> str:
    image = _read(path)
    width = max(round(image.shape[1] * _HEIGHT / image.shape[0]), 1)
    small = cv2.resize(image, (width, _HEIGHT), interpolation=cv2.INTER_AREA)
    data = _base64(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
    words = html.escape(text)
    picture = f"<img class='image' alt='{words}' title='{html.escape(path)}' src='data:image/jpeg;base64,{data}'>"
    return f"<figure class='{kind}'>{picture}<figcaption>{words}</figcaption></figure>"


def _measures(tops: dict[str, TopImages]) -> str:
    heads = "mAP", "mAP_trapz", "mINP", "Rank-1", "Rank-5", "Rank-10"
    rows = []
    for name, top in tops.items():
        found = top.measures
        values = [found["mAP"], found["mAP_trapz"], found["mINP"], *(found["cmc"][rank - 1] for rank in (1, 5, 10))]
        cells = "".join(f"<td>{100 * value:.2f}</td>" for value in values)
        rows.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("%", *heads))
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _label(found: Found, query: int, image: int | None = None) -> str:
    side, number = (found.query, query) if image is None else (found.gallery, image)
    pid = int(side.pids[number])
    name = "nobody" if image is not None and pid == 0 and not found.right(query, image) else f"{pid:04d}"
    return name if side.camids is None else f"{name} c{int(side.camids[number])}"


def _read(path: str) -> NDArray[np.uint8]:
    if not path:
        raise ValueError("data samples have no img_path to show: add 'img_path' to meta_keys of PackInputs")
    return mmcv.imfrombytes(get(path))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
