"""How the exits of a multi-exit classifier do, each for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from kd_mm.registry import METRICS


@METRICS.register_module()
class ExitMetric(BaseMetric):
    """Accuracy of each exit, or with early exit who left where; of :class:`kd_mm.MultiExitClassifier`.

    Logs in percent, unrounded, exits from 1 (the head is the last). Without a threshold ``exits/top1_<i>``, the
    accuracy of exit i alone on all images; the last is that of the plain network. With one ``exits/share_<i>``, the
    share of images that left at exit i, and ``exits/top1_of_share_<i>``, the accuracy on these; and where it knows what
    each exit costs ``exits/multiply_adds``, the mean for one image.

    Reads from each data sample ``left_at``, ``exit_labels`` where there are any, ``pred_label`` and ``gt_label``.

    Args:
        multiply_adds: Of one image that leaves at each exit, the head last.
        collect_device: ``"cpu"`` or ``"gpu"``: how several processes bring their results together.
        prefix: Put before every name; default ``"exits"``.
        collect_dir: Folder for that, with ``"cpu"``.
    """

    default_prefix = "exits"

    def __init__(
        self,
        multiply_adds: Sequence[int] | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        self.multiply_adds = multiply_adds

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Take what one batch of data samples says.

        Raises:
            ValueError: They come from another network.
        """
        for sample in data_samples:
            if "left_at" not in sample:
                raise ValueError(
                    "ExitMetric reads what kd_mm.MultiExitClassifier predicts, and the data samples have no 'left_at': "
                    "drop the metric, or evaluate such a model"
                )
            truth = set(sample["gt_label"].tolist())
            alone = [label in truth for label in sample["exit_labels"].tolist()] if "exit_labels" in sample else []
            self.results.append((sample["left_at"], int(sample["pred_label"]) in truth, alone))

    def compute_metrics(self, results: list[tuple[int, bool, list[bool]]]) -> dict[str, float]:
        """Return the measures of all images."""
        if results[0][2]:
            alone = 100 * np.mean([alone for _, _, alone in results], axis=0)
            return {f"top1_{i}": float(value) for i, value in enumerate(alone, 1)}
        left, right = np.array([left for left, _, _ in results]), np.array([right for _, right, _ in results])
        last = len(self.multiply_adds) if self.multiply_adds is not None else int(left.max())
        measures: dict[str, float] = {}
        for i in range(1, last + 1):
            measures[f"share_{i}"] = float(100 * np.mean(left == i))
            if (left == i).any():
                measures[f"top1_of_share_{i}"] = float(100 * right[left == i].mean())
        if self.multiply_adds is not None:
            measures["multiply_adds"] = float(np.mean(np.array(self.multiply_adds)[left - 1]))
        return measures
