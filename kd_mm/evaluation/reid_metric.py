"""The registered metric of person re-identification and of retrieval as such."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from mmengine.dist import get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from kd_mm.evaluation.reid import evaluate_reid
from kd_mm.evaluation.reid_inputs import JUNK, check_metric
from kd_mm.evaluation.reid_samples import Gallery, ImageFeature, gather, read_samples, without_copies
from kd_mm.evaluation.rerank import check_options
from kd_mm.registry import METRICS

#: Person id of gallery images that show nobody who is looked for.
DISTRACTOR = 0
_LOGGED_RANKS = (1, 5, 10)


@METRICS.register_module()
class ReIDMetric(BaseMetric):
    """mAP, mINP and CMC of queries against a gallery; see :func:`kd_mm.evaluation.evaluate_reid`.

    Logs in percent, unrounded: ``reid/mAP``, ``reid/mAP_trapz`` (the official Market-1501 script's), ``reid/mINP``,
    ``reid/Rank-1``, ``reid/Rank-5``, ``reid/Rank-10``; and counts: ``reid/queries`` (how many of them are valid is in
    the printed line), ``reid/gallery`` (without junk), ``reid/junk`` (person id -1, those included that the data set
    left out and counts as ``num_junk`` in its metainfo), ``reid/distractors`` (person id 0 in the gallery, unless a
    query has it). With re-ranking both are measured: these names are those after it, ``reid/plain_mAP`` and
    ``reid/plain_Rank-1`` those before.

    Reads from each data sample ``feature`` ``(D,)``, ``pid``, ``camid``, ``role`` (``"query"`` or ``"gallery"``) and
    ``sample_idx``, by which images that several processes evaluated twice are told apart.

    Args:
        metric: ``"cosine"`` or ``"euclidean"``.
        rerank: None, or options of :class:`kd_mm.evaluation.ReRanking`; an empty dict takes the paper's.
        max_rank: Longest rank of the CMC curve, at least 10.
        camera_rule: Leave out gallery images of the query's person from the query's camera. ``False`` for data without
            cameras, whose samples need no ``camid``.
        keep: Keep what was measured as :attr:`query` and :attr:`gallery`, and :attr:`cmc`.
        collect_device: ``"cpu"`` or ``"gpu"``: how several processes bring their results together.
        prefix: Put before every name; default: nothing more than ``reid/``.
        collect_dir: Folder for that, with ``"cpu"``.

    Attributes:
        query: The queries of the last evaluation, with ``keep``.
        gallery: The gallery of the last evaluation, junk included, with ``keep``.
        cmc: ``(max_rank,)`` of the last evaluation, in [0, 1], with ``keep``.

    Raises:
        ValueError: An option that does not exist, or is out of range.
    """

    default_prefix = ""

    def __init__(
        self,
        metric: str = "cosine",
        rerank: Mapping[str, Any] | None = None,
        max_rank: int = 50,
        camera_rule: bool = True,
        keep: bool = False,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        check_metric(metric)
        if not isinstance(max_rank, int) or max_rank < max(_LOGGED_RANKS):
            raise ValueError(f"ReIDMetric: max_rank={max_rank}: give at least {max(_LOGGED_RANKS)}: Rank-10 is logged")
        self.metric, self.max_rank, self.camera_rule, self.keep = metric, max_rank, camera_rule, keep
        self.rerank = None if rerank is None else check_options(rerank)
        self.query: Gallery | None = None
        self.gallery: Gallery | None = None
        self.cmc: Any = None
        self._size: int | None = None
        self.results: list[Any]

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the features of a batch.

        Args:
            data_batch: Not used.
            data_samples: Data samples as dicts.

        Raises:
            ValueError: See :func:`kd_mm.evaluation.reid_samples.read_samples`.
        """
        # Plain tuples, so that the collected results need no class of ours to be read.
        self.results.extend(map(tuple, read_samples(data_samples, self.camera_rule)))

    def evaluate(self, size: int) -> dict[str, float]:
        """Measure what all processes have seen.

        Args:
            size: Images in the data set.

        Returns:
            The measures, the same in each process.
        """
        self._size = size
        # One part a process: upstream's own collecting would cut shares of different lengths.
        self.results = [self.results]
        return super().evaluate(get_world_size())

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Measure everything.

        Args:
            results: The images of each process.

        Raises:
            ValueError: There is no query or no gallery, or see :func:`kd_mm.evaluation.evaluate_reid`.
        """
        images = [ImageFeature(*image) for image in chain.from_iterable(results)]
        if len(results) > 1 and any(image.number is None for image in images):
            raise ValueError(
                "the data samples have no sample_idx, so images evaluated twice by several processes cannot be told: "
                "add 'sample_idx' to meta_keys of PackInputs in test_pipeline"
            )
        images = without_copies(images)
        if self._size is not None and len(images) != self._size:
            text = f"{len(images)} images were evaluated, but the test data set has {self._size}"
            print_log(f"{text}: the measures are not those of the data set", "current", level=logging.WARNING)
        query, gallery = gather(images, "query"), gather(images, "gallery")
        scalars, cmc = self._measure(query, gallery)
        if self.keep:
            self.query, self.gallery, self.cmc = query, gallery, cmc
        return scalars

    def _measure(self, query: Gallery, gallery: Gallery) -> tuple[dict[str, float], Any]:
        def measured(rerank: dict[str, Any] | None) -> dict[str, Any]:
            pids, camids = (query.pids, gallery.pids), (query.camids, gallery.camids)
            return evaluate_reid(
                query.features, gallery.features, *pids, *camids, self.metric, rerank, max_rank=self.max_rank
            )

        found = measured(self.rerank)
        scalars = {f"reid/{name}": 100 * found[name] for name in ("mAP", "mAP_trapz", "mINP")}
        scalars.update({f"reid/Rank-{rank}": 100 * float(found["cmc"][rank - 1]) for rank in _LOGGED_RANKS})
        if self.rerank is not None:
            plain = measured(None)
            scalars["reid/plain_mAP"] = 100 * plain["mAP"]
            scalars["reid/plain_Rank-1"] = 100 * float(plain["cmc"][0])
        counts = _counts(query, gallery, int((self.dataset_meta or {}).get("num_junk", 0)))
        print_log(self._line(counts, found["num_valid_queries"]), logger="current")
        return {**scalars, **{f"reid/{name}": float(count) for name, count in counts.items()}}, found["cmc"]

    def _line(self, counts: Mapping[str, int], valid: int) -> str:
        name = (self.dataset_meta or {}).get("dataset") or "test data"
        return (
            f"Re-ID on {name}: {counts['queries']:,} queries ({valid:,} valid), {counts['gallery']:,} gallery images "
            f"({counts['distractors']:,} distractors among them), {counts['junk']:,} junk left out; {self.metric} "
            f"distance, camera rule {'on' if self.camera_rule else 'off'}, "
            + ("no re-ranking" if self.rerank is None else f"re-ranked with {self.rerank}")
        )


def _counts(query: Gallery, gallery: Gallery, left_out: int) -> dict[str, int]:
    junk = int((gallery.pids == JUNK).sum())
    distractors = 0 if (query.pids == DISTRACTOR).any() else int((gallery.pids == DISTRACTOR).sum())
    return {"queries": len(query), "gallery": len(gallery) - junk, "junk": junk + left_out, "distractors": distractors}
