"""How a network's own logits are read from the recorded tensors of its taps."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_mm.losses.dense_output import flatten_levels
from kd_mm.losses.functional import full_precision
from kd_mm.losses.region_output import map_taps, region_predictions, student_taps


class LogitsReader:
    """One tensor as it is, e.g. a classifier's logits ``(B, K)``; the base of the readers.

    Args:
        *taps: Taps to record; of several the sum is read, as mmpretrain's ConformerHead predicts.
    """

    #: What one row of the logits stands for, in messages.
    unit: ClassVar[str] = "image"
    #: Whether the regions are needed that the student sampled in the same step.
    needs_regions = False

    def __init__(self, *taps: str) -> None:
        self.taps = taps

    def read(
        self, records: Mapping[str, Tensor], model: nn.Module | None = None, regions: Tensor | None = None
    ) -> Tensor:
        """Return the network's own logits.

        Args:
            records: Recorded tensors of its taps.
            model: The network, for a teacher that classifies regions.
            regions: ``(R, 5)``, the regions that the student sampled, for a teacher that classifies them.
        """
        logits = [records[tap] for tap in self.taps]
        return logits[0] if len(logits) == 1 else torch.stack(logits).sum(dim=0)


class DenseReader(LogitsReader):
    """Class maps of a dense head, flattened to ``(B, N, K)``: levels shallow to deep, then rows, columns, anchors.

    Args:
        levels: Number of levels.
        classes: Channels of an anchor, K (K + 1 for softmax heads).
    """

    unit = "grid position"

    def __init__(self, levels: int, classes: int) -> None:
        super().__init__(*(f"bbox_head[0][{level}]" for level in range(levels)))
        self.classes = classes

    def read(
        self, records: Mapping[str, Tensor], model: nn.Module | None = None, regions: Tensor | None = None
    ) -> Tensor:
        return flatten_levels([records[tap] for tap in self.taps], self.classes)


class ScoreReader(DenseReader):
    """Logits of the class scores of YOLOv3's and YOLOX's heads ``(B, N, K)``, of K classes.

    A score is the probability of the class times that of an object, by which the heads rank what they predict: the
    logits of the classes are trained on objects alone.

    Args:
        levels: Number of levels.
        classes: K.
        joined: Whether box (4), object and classes of an anchor are channels of one map (YOLOv3); else objects have
            maps of their own, the head's third output (YOLOX).
    """

    def __init__(self, levels: int, classes: int, joined: bool) -> None:
        super().__init__(levels, classes)
        self.objects = () if joined else tuple(f"bbox_head[2][{level}]" for level in range(levels))
        self.taps += self.objects

    def read(
        self, records: Mapping[str, Tensor], model: nn.Module | None = None, regions: Tensor | None = None
    ) -> Tensor:
        maps = [records[tap] for tap in self.taps if tap not in self.objects]
        if self.objects:
            maps = [torch.cat([records[tap], level], dim=1) for tap, level in zip(self.objects, maps, strict=True)]
        values = full_precision(flatten_levels(maps, (1 if self.objects else 5) + self.classes))[
            ..., -1 - self.classes :
        ]
        log_score = F.logsigmoid(values[..., :1]) + F.logsigmoid(values[..., 1:])
        return log_score - torch.log(-torch.expm1(log_score.clamp(max=-1e-6)))  # a score of 1 has no logit


class RoIReader(LogitsReader):
    """Class logits ``(R, K + 1)`` of a two-stage detector's (first) RoI head on the regions that the student sampled.

    The student's are recorded as it computes its own loss; a teacher classifies the same regions on its own features,
    the arrangement of mdistiller's detection code.

    Args:
        student: Whether this is the student's.
        levels: Number of feature levels that a teacher's RoI head reads.
        cascade: Whether the RoI head is a cascade, whose first stage is read then.
    """

    unit = "region"

    def __init__(self, student: bool, levels: int, cascade: bool = False) -> None:
        super().__init__(*(student_taps(cascade)[::2] if student else map_taps(levels)))
        self.needs_regions, self.cascade = not student, cascade

    def read(
        self, records: Mapping[str, Tensor], model: nn.Module | None = None, regions: Tensor | None = None
    ) -> Tensor:
        """Return the network's own logits; see the base class.

        Raises:
            ValueError: A teacher without the regions.
        """
        if not self.needs_regions:
            return records[self.taps[0]]
        if regions is None:
            raise ValueError(f"{type(model).__name__} classifies regions that the student sampled, and there are none")
        network: Any = model
        features = [records[tap] for tap in self.taps]
        regions = regions.detach().to(features[0].dtype)
        return region_predictions(network.roi_head, features, regions, self.cascade)[0]
