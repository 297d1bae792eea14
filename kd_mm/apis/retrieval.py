"""What re-identification networks find for the queries of a config's test data."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from kd_mm.apis.evaluate import plain_config
from kd_mm.apis.run_options import set_threads
from kd_mm.apis.runner import read_config
from kd_mm.checks.config import check_config
from kd_mm.distillers.builder import teacher_configs
from kd_mm.evaluation.draw_retrieval import RetrievalResult
from kd_mm.evaluation.reid_distances import JUNK, Images
from kd_mm.evaluation.reid_metric import gather, read_samples
from kd_mm.evaluation.reid_rank import top_images
from kd_mm.utils.checkpoint import fill, read_checkpoint, student_state_dict
from kd_mm.utils.config import as_list, build_network
from kd_mm.utils.suggest import choice

PICKS = ("even", "worst")


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
    choice("pick", pick, PICKS)
    set_threads()
    loaded = read_config(config, options)
    plain, metric = plain_config(loaded), metric_options(loaded)
    check_config(plain, ["model", "test_dataloader"])
    networks = {"student": _network(plain, checkpoint, "student")}
    teachers = teacher_configs(loaded.model.get("teacher"))
    if teacher is not None:
        teachers = {"teacher": {"config": teacher[0], "checkpoint": teacher[1]}}
    for name, given in teachers.items():
        networks[name] = _network(given["config"], given.get("checkpoint"), f"teacher {name!r}")
    if len(networks) == 1:
        networks = {"network": networks["student"]}
    embedded = embed(plain, networks, metric["camera_rule"])
    settings = {"metric": metric["metric"], "rerank": metric["rerank"] if rerank is None else rerank}
    setting = f"{settings['metric']} distance, camera rule {'on' if metric['camera_rule'] else 'off'}"
    setting += "" if settings["rerank"] is None else ", re-ranked"
    return rank(embedded, queries, pick, setting, count=top, max_rank=metric["max_rank"], **settings)


def rank(
    embedded: Mapping[str, tuple[Images, Images]], queries: int, pick: str, setting: str, **options: Any
) -> RetrievalResult:
    """Rank the gallery for each network; the first one decides which queries are selected.

    ``embedded`` are queries and gallery by network, ``setting`` is a text for the picture; for the other arguments see
    :func:`retrieve` and :func:`kd_mm.evaluation.reid_rank.top_images`.
    """
    tops = {name: top_images(query, gallery, **options) for name, (query, gallery) in embedded.items()}
    first = next(iter(embedded))
    selected = select_queries(tops[first].average_precision, queries, pick)
    return RetrievalResult(*embedded[first], tops, selected, setting)


def metric_options(config: Config) -> dict[str, Any]:
    """Return ``metric``, ``rerank``, ``max_rank`` and ``camera_rule`` of the config's ``kd_mm.ReIDMetric``.

    Raises:
        ValueError: It has none.
    """
    for metric in as_list(config.get("test_evaluator")):
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
    return {name: split_images(found) for name, found in images.items()}


def split_images(images: Iterable[Any]) -> tuple[Images, Images]:
    """Return queries and gallery; without junk, so that gallery numbers are the same with and without re-ranking."""
    images = [image for image in images if image.pid != JUNK]
    return gather(images, "query"), gather(images, "gallery")


def select_queries(precision: Any, number: int, pick: str) -> list[int]:
    """Return the numbers of valid queries to show, in the order to show them; see :func:`retrieve`.

    ``precision`` is the average precision ``(Q,)``, NaN where a query is not valid.
    """
    valid = np.flatnonzero(~np.isnan(precision))
    if pick == "worst":
        return [int(i) for i in valid[np.argsort(precision[valid], kind="stable")][:number]]
    return [int(valid[i]) for i in np.unique(np.linspace(0, len(valid) - 1, number).round().astype(int))]


def _network(config: Any, checkpoint: str | None, name: str) -> BaseModel:
    network: Any = build_network(config)
    if checkpoint is None:
        raise ValueError(f"{name} has no checkpoint: give the one it was trained to")
    fill(network, student_state_dict(read_checkpoint(checkpoint)), name, checkpoint)
    return network.to(get_device()).eval()
