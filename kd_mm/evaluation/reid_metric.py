"""The registered metric of person re-identification and of retrieval."""

import copy
import filecmp
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.model import BaseModel

from kd_mm.distillers.teacher import Teacher
from kd_mm.evaluation.reid_distances import DISTANCES, JUNK, Array, Images
from kd_mm.evaluation.reid_rank import evaluate_reid, no_match
from kd_mm.evaluation.rerank import check_options
from kd_mm.registry import METRICS
from kd_mm.utils.suggest import choice, join_first, warn

#: Person id of gallery images that show none of the persons to find.
DISTRACTOR = 0
_LOGGED_RANKS = (1, 5, 10)


@dataclass(frozen=True)
class ImageFeature:
    """One image of an evaluation."""

    feature: Array  # (D,) float32, or float64 where the network returns it
    pid: int
    camid: int | None
    role: str  # "query" or "gallery"
    path: str  # empty where unknown


@METRICS.register_module()
class ReIDMetric(BaseMetric):
    """mAP, mINP and CMC of queries against a gallery; see :func:`kd_mm.evaluation.evaluate_reid`.

    Logs in percent, unrounded: ``reid/mAP``, ``reid/mAP_trapz`` (the official Market-1501 script's), ``reid/mINP``,
    ``reid/Rank-1``, ``reid/Rank-5``, ``reid/Rank-10``; and counts: ``reid/queries`` (the log line has the number of
    valid ones), ``reid/gallery`` (without junk), ``reid/junk`` (person id -1, and what the data set left out and counts
    as ``num_junk`` in its metainfo), ``reid/distractors`` (person id 0 in the gallery, unless a query has it). With
    re-ranking these names are the results after it, ``reid/plain_mAP`` and ``reid/plain_Rank-1`` those before.

    Reads from each data sample ``feature`` ``(D,)``, ``pid``, ``camid`` and ``role`` (``"query"`` or ``"gallery"``).

    Asymmetric retrieval (Budnik and Avrithis, CVPR 2021, arXiv 2006.13108): with ``gallery_config`` the queries of the
    evaluated network are searched for in a gallery that another network, usually the teacher, has embedded. It reads
    the images as the test pipeline gives them and normalises them as its own config says. Both embeddings must have the
    same length and directions that mean the same: a student that was trained without a loss that turns its embedding
    towards the teacher's (:class:`kd_mm.losses.CosineLoss`) finds nothing.

    Args:
        metric: ``"cosine"`` or ``"euclidean"``.
        rerank: Whether to re-rank, with the paper's options; or options of :func:`kd_mm.evaluation.evaluate_reid`'s
            re-ranking. Default: False.
        max_rank: Longest rank of the CMC curve, at least 10.
        camera_rule: Leave out gallery images of the query's person from the query's camera. ``False`` for data without
            cameras, whose samples need no ``camid``.
        gallery_config: Config of the network that embeds the gallery; of a distillation its student. Default: the
            evaluated network embeds both.
        gallery_checkpoint: Its checkpoint; every weight must fit.
        **kwargs: As for mmengine's ``BaseMetric`` (``collect_device``, ``prefix``, ``collect_dir``). With a prefix
            ``P`` the names begin with ``P/``, so that a config can list a symmetric and an asymmetric metric.

    Raises:
        ValueError: An option is unknown or out of range, one of ``gallery_config`` and ``gallery_checkpoint`` is
            missing, or they do not fit each other.
    """

    default_prefix = ""

    def __init__(
        self,
        metric: str = "cosine",
        rerank: bool | Mapping[str, Any] | None = False,
        max_rank: int = 50,
        camera_rule: bool = True,
        gallery_config: str | dict[str, Any] | None = None,
        gallery_checkpoint: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(max_rank, int) or max_rank < max(_LOGGED_RANKS):
            raise ValueError(f"ReIDMetric: max_rank={max_rank}: give at least {max(_LOGGED_RANKS)}: Rank-10 is logged")
        self.metric, self.max_rank, self.camera_rule = choice("metric", metric, DISTANCES), max_rank, camera_rule
        self.rerank = check_options(rerank)
        if (gallery_config is None) != (gallery_checkpoint is None):
            missing = "gallery_config" if gallery_config is None else "gallery_checkpoint"
            raise ValueError(f"ReIDMetric: {missing} is missing: the network of the gallery needs both")
        self._gallery: Any = None  # a BaseModel
        if gallery_config is not None:
            self._gallery = Teacher("gallery", gallery_config, gallery_checkpoint).model
        self._size: int | None = None
        self.results: list[Any]

    def check_data(self, samples: Sequence[Mapping[str, Any]]) -> list[int]:
        """Look for a query and a match of it, before anything is evaluated; warn of copies of queries in the gallery.

        Args:
            samples: All samples of the data set, before its pipeline.

        Returns:
            The positions of both; nothing where the samples do not hold what is needed.

        Raises:
            ValueError: No query has a match, or an identity or a camera is no integer of 64 bits.
        """
        needed = {"pid", "role", *(["camid"] if self.camera_rule else [])}
        if not samples or not all(needed <= sample.keys() for sample in samples):
            return []
        labels = [_read_labels(sample, self.camera_rule) for sample in samples]
        gallery: dict[int, list[int]] = {}
        for position, (pid, _, role, _) in enumerate(labels):
            if role == "gallery":
                gallery.setdefault(pid, []).append(position)
        queries = [position for position, label in enumerate(labels) if label[2] == "query"]
        chosen: list[int] = []
        same_camera, copied = False, []
        size = functools.cache(lambda file: os.path.getsize(file) if os.path.isfile(file) else -1)
        for query in queries:
            pid, camera, _, path = labels[query]
            matches = gallery.get(pid, [])
            elsewhere = [match for match in matches if camera is None or labels[match][1] != camera]
            chosen = chosen or [query, *elsewhere[:1]] if elsewhere else chosen
            same_camera = same_camera or bool(matches)
            alike = [file for file in (labels[match][3] for match in elsewhere) if size(file) == size(path) >= 0]
            copied += [path] if any(filecmp.cmp(path, file, False) for file in alike) else []
        if not gallery:
            raise ValueError("the data have no image of a gallery (kd_mm.Market1501: split='test')")
        if not chosen:
            raise ValueError(no_match(len(queries), self.camera_rule, same_camera))
        if copied:
            warn(
                f"{len(copied)} of {len(queries)} queries are in the gallery as the same file or a copy of it "
                f"({join_first(copied)}), which they find first: results are too good; take these out of the gallery"
            )
        return chosen

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Store the features of a batch of data samples, given as dicts; see :func:`read_samples`.

        Raises:
            ValueError: The network of the gallery gives embeddings of another length.
        """
        images = read_samples(data_samples, self.camera_rule)
        if self._gallery is not None and any(image.role == "gallery" for image in images):
            images = self._embed_gallery(self._gallery, data_batch, images)
        self.results.extend(images)

    def _embed_gallery(self, network: BaseModel, batch: Any, images: list[ImageFeature]) -> list[ImageFeature]:
        with torch.no_grad():  # its test_step writes into the samples
            samples = network.to(get_device()).test_step(copy.deepcopy(batch))
        found = read_samples([sample.to_dict() for sample in samples], self.camera_rule)
        own, other = len(images[0].feature), len(found[0].feature)
        if own != other:
            raise ValueError(
                f"ReIDMetric: the network of gallery_config gives embeddings of length {other}, the evaluated one of "
                f"length {own}: give the student the same, e.g. neck=dict(type='mmpretrain.LinearNeck', gap_dim=2, "
                f"in_channels=..., out_channels={other}) and head=dict(in_channels={other})"
            )
        pairs = zip(images, found, strict=True)
        return [replace(image, feature=new.feature) if image.role == "gallery" else image for image, new in pairs]

    def evaluate(self, size: int) -> dict[str, float]:
        """Return the measures of the images of all processes; ``size`` is the number of images in the data set."""
        self._size = size
        return super().evaluate(size)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Return the measures of all images.

        Raises:
            ValueError: There is no query or no gallery, or see :func:`kd_mm.evaluation.evaluate_reid`.
        """
        if self._size is not None and len(results) != self._size:
            text = f"{len(results)} images were evaluated, but the test data set has {self._size}"
            warn(f"{text}: the measures are not those of the data set")
        query, gallery = gather(results, "query"), gather(results, "gallery")
        found = self._evaluate(query, gallery, self.rerank)
        scalars = {f"reid/{name}": 100 * found[name] for name in ("mAP", "mAP_trapz", "mINP")}
        scalars.update({f"reid/Rank-{rank}": 100 * float(found["cmc"][rank - 1]) for rank in _LOGGED_RANKS})
        if self.rerank is not None:
            plain = self._evaluate(query, gallery, None)
            scalars["reid/plain_mAP"] = 100 * plain["mAP"]
            scalars["reid/plain_Rank-1"] = 100 * float(plain["cmc"][0])
        junk = int((gallery.pids == JUNK).sum())
        counts = {
            "queries": len(query),
            "gallery": len(gallery) - junk,
            "junk": junk + int((self.dataset_meta or {}).get("num_junk", 0)),
            "distractors": 0 if DISTRACTOR in query.pids else int((gallery.pids == DISTRACTOR).sum()),
        }
        scalars.update({f"reid/{name}": float(count) for name, count in counts.items()})
        print_log(self._describe(counts, found["num_valid_queries"]), logger="current")
        return scalars

    def _evaluate(self, query: Images, gallery: Images, rerank: Mapping[str, Any] | None) -> dict[str, Any]:
        ids = query.pids, gallery.pids, query.camids, gallery.camids
        return evaluate_reid(query.features, gallery.features, *ids, self.metric, rerank, self.max_rank)

    def _describe(self, counts: Mapping[str, int], valid: int) -> str:
        name = (self.dataset_meta or {}).get("dataset") or "test data"
        return (
            f"Re-ID on {name}: {counts['queries']:,} queries ({valid:,} valid), {counts['gallery']:,} gallery images "
            f"({counts['distractors']:,} distractors among them), {counts['junk']:,} junk left out; {self.metric} "
            f"distance, camera rule {'on' if self.camera_rule else 'off'}, "
            + ("" if self._gallery is None else "gallery embedded by another network, ")
            + ("no re-ranking" if self.rerank is None else f"re-ranked with {self.rerank}")
        )


def read_samples(samples: Sequence[Mapping[str, Any]], camera_rule: bool) -> list[ImageFeature]:
    """Read a batch of data samples with one transfer from the device.

    Args:
        samples: Data samples as dicts, with ``feature``, ``pid``, ``role``, and ``img_path`` where it is known.
        camera_rule: Whether ``camid`` is needed.

    Raises:
        ValueError: A field is missing, a role is unknown, or features differ in shape.
    """
    if not samples:
        return []
    for sample in samples:
        if sample.get("feature") is None:
            raise ValueError(
                f"{_name(sample)}: no feature in the data sample: give the model a kd_mm.BNNeckHead, which predicts "
                "it, or evaluate classes by mmpretrain.Accuracy"
            )
    labels = [_read_labels(sample, camera_rule) for sample in samples]
    shapes = {tuple(sample["feature"].shape) for sample in samples}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1:
        raise ValueError(f"features have the shapes {sorted(shapes)}: every image needs one vector of the same length")
    features = torch.stack([torch.as_tensor(sample["feature"]).detach() for sample in samples])
    features = features if features.dtype == torch.float64 else features.float()
    return [ImageFeature(row, *label) for row, label in zip(features.cpu().numpy(), labels, strict=True)]


def _read_labels(sample: Mapping[str, Any], camera_rule: bool) -> tuple[int, int | None, str, str]:
    name = _name(sample)
    for key in ("pid", "role", "camid") if camera_rule else ("pid", "role"):
        if sample.get(key) is None:
            hint = "; camera_rule=False measures without cameras" if key == "camid" else ""
            raise ValueError(
                f"{name}: no {key} in the data sample: add {key!r} to meta_keys of PackInputs in test_pipeline{hint}"
            )
    if sample["role"] not in ("query", "gallery"):
        raise ValueError(
            f"{name}: role={sample['role']!r}: write 'query' or 'gallery' (kd_mm.Market1501: split='test')"
        )
    camera = _integer(sample, "camid") if camera_rule else None
    return _integer(sample, "pid"), camera, str(sample["role"]), str(sample.get("img_path") or "")


def _integer(sample: Mapping[str, Any], key: str) -> int:
    try:
        return int(np.int64(sample[key]))
    except (ValueError, TypeError, OverflowError):
        raise ValueError(
            f"{_name(sample)}: {key}={sample[key]!r} is no integer of 64 bits: number identities and cameras from 1"
        ) from None


def _name(sample: Mapping[str, Any]) -> str:
    return f"image {sample.get('img_path') or sample.get('sample_idx', '')}".rstrip()


def gather(images: Iterable[ImageFeature], role: str) -> Images:
    """Return the images of a role as one :class:`Images`.

    Raises:
        ValueError: There are none, or their features differ in length.
    """
    chosen = [image for image in images if image.role == role]
    if not chosen:
        raise ValueError(f"no image of role {role!r} was evaluated: the test data set needs queries and a gallery")
    lengths = {len(image.feature) for image in chosen}
    if len(lengths) > 1:
        raise ValueError(f"features of the {role} have the lengths {sorted(lengths)}: all must be the same")
    cameras = [image.camid for image in chosen if image.camid is not None]
    return Images(
        np.stack([image.feature for image in chosen]),
        np.array([image.pid for image in chosen], dtype=np.int64),
        np.array(cameras, dtype=np.int64) if len(cameras) == len(chosen) else None,
        [image.path for image in chosen],
    )
