"""How a network's own answer is read: which taps, and what is made of what they show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Taken = Mapping[str, Tensor]


@dataclass(frozen=True)
class LogitsReader:
    """One tensor as it is, e.g. a classifier's logits ``(B, K)``.

    Attributes:
        tap: Where it is read.
    """

    tap: str
    #: Whether a teacher's answer needs what the student showed in the same step.
    late = False
    #: What it answers for, in messages.
    place = "once an image"

    @property
    def taps(self) -> tuple[str, ...]:
        """The tap texts."""
        return (self.tap,)

    def read(self, model: nn.Module, own: Taken, student: Taken) -> Tensor:
        """Return the answer of ``model``.

        Args:
            model: The network.
            own: What its taps showed.
            student: What the student's taps showed.
        """
        return own[self.tap]

    def images(self, student: Taken) -> Tensor | None:
        """Return the image index ``(R,)`` of each row of an answer on regions; ``None``: rows are images."""
        return None


@dataclass(frozen=True)
class DenseReader:
    """Class maps of a dense head, flattened to ``(B, N, K)``: levels shallow to deep, then rows, columns, anchors.

    Attributes:
        levels: Number of levels.
        classes: Channels of an anchor, K (K + 1 for softmax heads).
        head: Tap of the head, whose first output is the list of class maps ``(B, A * K, H, W)``.
    """

    levels: int
    classes: int
    head: str = "bbox_head"
    late = False
    place = "on a grid"

    @property
    def taps(self) -> tuple[str, ...]:
        """The tap texts, one a level."""
        return tuple(f"{self.head}[0][{level}]" for level in range(self.levels))

    def read(self, model: nn.Module, own: Taken, student: Taken) -> Tensor:
        """Return the answer of ``model``; see :meth:`LogitsReader.read`."""
        maps = [own[tap].permute(0, 2, 3, 1).flatten(1) for tap in self.taps]
        return torch.cat([level.reshape(len(level), -1, self.classes) for level in maps], dim=1)

    def images(self, student: Taken) -> Tensor | None:
        """Return the image index ``(R,)`` of each row of an answer on regions; ``None``: rows are images."""
        return None


@dataclass(frozen=True)
class RoIReader:
    """Class logits ``(R, K + 1)`` of a two-stage detector's (first) RoI head on the regions that the student sampled.

    The student's are tapped as it computes its own loss; a teacher classifies the same regions on its own features, the
    arrangement of mdistiller's detection code.

    Attributes:
        student: Whether this is the student's.
        levels: Number of feature levels that a teacher's RoI head reads.
        cascade: Whether the RoI head is a cascade, whose first stage answers then.
    """

    student: bool
    levels: int
    cascade: bool = False
    place = "on regions"

    @property
    def late(self) -> bool:
        """A teacher waits for the student's regions."""
        return not self.student

    @property
    def taps(self) -> tuple[str, ...]:
        """The tap texts."""
        if not self.student:
            return tuple(f"neck[{level}]" for level in range(self.levels)) if self.levels else ("backbone[0]",)
        index = ".0" if self.cascade else ""
        return (f"roi_head.bbox_head{index}[0]", region_tap(self.cascade))

    def read(self, model: nn.Module, own: Taken, student: Taken) -> Tensor:
        """Return the answer of ``model``; see :meth:`LogitsReader.read`."""
        if self.student:
            return own[self.taps[0]]
        sampled = self._sampled(student)
        head: Any = model.roi_head
        features = [own[tap] for tap in self.taps]
        regions = sampled.detach().to(features[0].dtype)
        found = head._bbox_forward(0, features, regions) if self.cascade else head._bbox_forward(features, regions)
        return found["cls_score"]

    def images(self, student: Taken) -> Tensor | None:
        """Return the image index ``(R,)`` of each row."""
        return self._sampled(student)[:, 0].detach()

    def _sampled(self, student: Taken) -> Tensor:
        return next(student[region_tap(kind)] for kind in (False, True) if region_tap(kind) in student)


Answer = LogitsReader | DenseReader | RoIReader


def region_tap(cascade: bool) -> str:
    """Return the tap of the regions ``(R, 5)`` (image, x1, y1, x2, y2 in pixels) that a student's RoI head pools."""
    return f"roi_head.bbox_roi_extractor{'.0' if cascade else ''}:in1"
