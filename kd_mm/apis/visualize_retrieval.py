"""Queries and what re-identification networks find for them, as one PNG or one HTML page with CMC curves."""

from __future__ import annotations

import base64
import copy
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from matplotlib.axes import Axes
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.fileio import get
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from numpy.typing import NDArray

from kd_mm.apis.config_check import check_config
from kd_mm.apis.evaluate import plain_config
from kd_mm.apis.recipes import is_distillation
from kd_mm.apis.runner import read_config, set_threads
from kd_mm.distillers.builder import teacher_configs
from kd_mm.distillers.teacher import teacher_model_config
from kd_mm.evaluation.reid_distances import JUNK, Images
from kd_mm.evaluation.reid_metric import gather, read_samples
from kd_mm.evaluation.reid_rank import TopImages, top_images
from kd_mm.registry import MODELS
from kd_mm.utils.atomic_files import replace_file
from kd_mm.utils.checkpoint import fill, read_checkpoint, student_state_dict
from kd_mm.utils.figures import COLORS, RIGHT, WRONG, new_figure, new_rows, to_png

PICKS = ("even", "worst")
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


# -- ranking ----------------------------------------------------------------------------------------------------------


def retrieve(
    config: str,
    checkpoint: str,
    teacher: tuple[str, str] | None = None,
    queries: int = 8,
    top: int = 10,
    pick: str = "even",
    rerank: Mapping[str, Any] | None = None,
    options: dict[str, Any] | None = None,
) -> RetrievalResult:
    """Rank the gallery of a config's test data by its network, and by its teachers.

    Distance, camera rule and re-ranking are those of the config's ``kd_mm.ReIDMetric``.

    Args:
        config: A distillation config or the plain config of its student.
        checkpoint: Any checkpoint of a run, or an exported one.
        teacher: Config and checkpoint of a network to stand beside; default: the teachers of a distillation config.
        queries: Queries to show, at most.
        top: Images to show of each.
        pick: ``"even"``: queries at equal steps through the data set; ``"worst"``: of least average precision.
        rerank: Overrides the config's.
        options: Overrides of config keys.

    Raises:
        ValueError: An option out of range, a checkpoint that does not fit, or data without queries and gallery.
    """
    if queries < 1 or top < 1:
        raise ValueError(f"{queries} queries, {top} images of each: show at least 1")
    if pick not in PICKS:
        raise ValueError(f"pick={pick!r}: choose one of {', '.join(PICKS)}")
    set_threads()
    loaded = read_config(config, options)
    plain, metric = plain_config(loaded), metric_options(loaded)
    check_config(plain, ["model", "test_dataloader"])
    networks = {"student": _network(plain, checkpoint, "student")}
    for name, given in _teachers(loaded, teacher).items():
        networks[name] = _network(given["config"], given.get("checkpoint"), f"teacher {name!r}")
    if len(networks) == 1:
        networks = {"network": networks["student"]}
    embedded = embed(plain, networks, metric["camera_rule"])
    settings = {"metric": metric["metric"], "rerank": metric["rerank"] if rerank is None else rerank}
    tops = {
        name: top_images(query, gallery, top, max_rank=metric["max_rank"], **settings)
        for name, (query, gallery) in embedded.items()
    }
    first = next(iter(tops.values()))
    query, gallery = next(iter(embedded.values()))
    setting = f"{settings['metric']} distance, camera rule {'on' if metric['camera_rule'] else 'off'}"
    setting += "" if settings["rerank"] is None else ", re-ranked"
    selected = select_queries(first.average_precision, queries, pick)
    return RetrievalResult(query, gallery, tops, selected, setting)


def metric_options(config: Config) -> dict[str, Any]:
    """Return ``metric``, ``rerank``, ``max_rank`` and ``camera_rule`` of the config's ``kd_mm.ReIDMetric``.

    Raises:
        ValueError: It has none.
    """
    evaluator = config.get("test_evaluator") or {}
    for metric in evaluator if isinstance(evaluator, list | tuple) else [evaluator]:
        if str((metric or {}).get("type", "")).rpartition(".")[2] == "ReIDMetric":
            defaults: dict[str, Any] = {"metric": "cosine", "rerank": None, "max_rank": 50, "camera_rule": True}
            return {name: metric.get(name, default) for name, default in defaults.items()}
    raise ValueError(
        "test_evaluator of this config has no kd_mm.ReIDMetric: rankings are of re-identification; write "
        "test_evaluator=dict(type='kd_mm.ReIDMetric')"
    )


def embed(config: Config, networks: Mapping[str, BaseModel], camera_rule: bool) -> dict[str, tuple[Images, Images]]:
    """Return queries and gallery, without junk, of a config's test data, as embedded by each network.

    Args:
        config: A plain config.
        networks: Networks whose ``test_step`` gives data samples with ``feature``; each gets the batch as loaded and
            normalises it itself.
        camera_rule: Whether samples need a ``camid``.
    """
    scope = config.get("default_scope") or "mmengine"
    images: dict[str, list[Any]] = {name: [] for name in networks}
    with DefaultScope.overwrite_default_scope(scope):
        loader = Runner.build_dataloader(copy.deepcopy(config.test_dataloader))
    for batch in loader:
        for name, network in networks.items():
            with torch.no_grad():
                samples = network.test_step(copy.deepcopy(batch))  # which writes into the samples
            images[name].extend(read_samples([sample.to_dict() for sample in samples], camera_rule))
    # Junk is left out now, so that gallery numbers are the same with and without re-ranking.
    kept = {name: [image for image in found if image.pid != JUNK] for name, found in images.items()}
    return {name: (gather(found, "query"), gather(found, "gallery")) for name, found in kept.items()}


def select_queries(precision: Any, number: int, pick: str) -> list[int]:
    """Return the numbers of valid queries to show, in the order to show them.

    Args:
        precision: ``(Q,)`` average precision, NaN where a query is not valid.
        number: How many, at most.
        pick: One of ``PICKS``.
    """
    valid = np.flatnonzero(~np.isnan(precision))
    if pick == "worst":
        return [int(i) for i in valid[np.argsort(precision[valid], kind="stable")][:number]]
    return [int(valid[i]) for i in np.unique(np.linspace(0, len(valid) - 1, number).round().astype(int))]


def _teachers(config: Config, teacher: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    if teacher is not None:
        return {"teacher": {"config": teacher[0], "checkpoint": teacher[1]}}
    return teacher_configs(config.model.get("teacher")) if is_distillation(config) else {}


def _network(config: Any, checkpoint: str | None, name: str) -> BaseModel:
    model_config, scope = teacher_model_config(config)
    with DefaultScope.overwrite_default_scope(scope):
        network: BaseModel = MODELS.build(model_config)
    if checkpoint is None:
        raise ValueError(f"{name} has no checkpoint: give the one it was trained to")
    fill(network, student_state_dict(read_checkpoint(checkpoint)), name, checkpoint)
    return network.to(get_device()).eval()


# -- pictures ---------------------------------------------------------------------------------------------------------


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
    heads = "mAP", "mAP_trapz", "mINP", "Rank-1", "Rank-5", "Rank-10"
    rows = []
    for name, top in tops.items():
        measures = top.measures
        values = [measures[key] for key in ("mAP", "mAP_trapz", "mINP")] + [
            measures["cmc"][rank - 1] for rank in (1, 5, 10)
        ]
        cells = "".join(f"<td>{100 * value:.2f}</td>" for value in values)
        rows.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("%", *heads))
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
