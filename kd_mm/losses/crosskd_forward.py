"""The student's features in the frozen head of the teacher (CrossKD, Wang et al., CVPR 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.losses.dense_output import TOWERS, DenseHead, DenseOutput
from kd_mm.losses.functional import full_precision, standardized_channels
from kd_mm.losses.observation import DenseAssignment
from kd_mm.stages.tap import child


class CrossHeadForward:
    """The teacher's head without its first convolutions.

    The head's own forward runs, including all behind its towers (scales, strides, centerness), without the convolutions
    ahead of the split. Student and teacher are tapped behind convolution ``split`` of each tower, activation included.

    Args:
        head: The teacher's dense head, its ``bbox_head``, frozen and in eval mode.
        split: Convolutions of each tower that remain the student's, at least 1. Default: 3.
        align: Whether features get the teacher's mean and deviation by channel, over batch and space of a level,
            before they enter; the public code does, and rectifies after. Default: True.

    Attributes:
        tower_taps: Taps of the features behind the split in either detector: levels of classification, then of
            regression.
        outputs: The teacher's own head outputs: class maps by level, regression maps, centerness maps if any.
        teacher_taps: All taps of the teacher: its outputs, and its tower features where the student's are aligned.

    Raises:
        ValueError: For a head that is not made of two towers, or a split beyond them.
    """

    def __init__(self, head: nn.Module, split: int = 3, align: bool = True) -> None:
        if not DenseHead.fits(head):
            raise _unfit(head)
        towers: list[Any] = [child(head, name) for name in TOWERS]
        widths = [[getattr(conv, "out_channels", 0) for conv in tower] for tower in towers]
        if not all(all(tower) for tower in widths):
            raise _unfit(head)
        shortest = min(len(tower) for tower in towers)
        if not 1 <= split <= shortest:
            raise ValueError(
                f"CrossKD: split={split}, but the shorter tower of {type(head).__name__} has {shortest} convolutions; "
                f"choose 1..{shortest}"
            )
        self.head, self.split, self.align = head, split, align
        self.widths = [tower[split - 1] for tower in widths]
        self.rectified = [isinstance(getattr(tower[split - 1], "activate", None), nn.ReLU) for tower in towers]
        self.outputs = DenseHead(head)
        self.levels = self.outputs.levels
        self.outputs = DenseHead(head, self._count_outputs())
        self.tower_taps = tuple(
            f"bbox_head.{tower}.{split - 1}#{level}" for tower in TOWERS for level in range(self.levels)
        )
        self.teacher_taps = (*self.tower_taps, *self.outputs.taps) if align else self.outputs.taps

    def __deepcopy__(self, memo: dict[int, Any]) -> CrossHeadForward:
        return self  # a teacher is shared by copies of what learns from it

    def dense(self, teacher: Mapping[str, Tensor]) -> DenseOutput:
        """Return the teacher's own output, of the tensors of :attr:`teacher_taps`."""
        return self.outputs.read(teacher)

    def cross(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], assignment: DenseAssignment | None = None
    ) -> DenseOutput:
        """Return the output of the teacher's head on the student's features; gradients reach the features only.

        Args:
            student: The student's tensors of :attr:`tower_taps`.
            teacher: Tensors of :attr:`teacher_taps`; unused without ``align``.
            assignment: The student's targets, where they are known.

        Raises:
            ValueError: If the student's tower has another width than the teacher's.
        """
        entered = [self._entered(tap, k // self.levels, student, teacher) for k, tap in enumerate(self.tower_taps)]
        pairs = list(zip(entered[: self.levels], entered[self.levels :], strict=True))
        return self.outputs.output(self._run(pairs), assignment)

    def _entered(self, tap: str, side: int, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
        feature = student[tap]
        if feature.shape[1] != self.widths[side]:
            raise ValueError(
                f"CrossKD: {tap} has {feature.shape[1]} channels in the student, {self.widths[side]} in the teacher; "
                "give the student's head the teacher's feat_channels"
            )
        if not torch.is_autocast_enabled(feature.device.type):  # a teacher may run in a precision of its own
            feature = feature.to(next(self.head.parameters()).dtype)
        if self.align:
            feature = align_scale(feature, teacher[tap])
        return feature.relu() if self.align and self.rectified[side] else feature

    def _run(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Sequence[Sequence[Tensor]]:
        """Run the head on (classification, regression) features of each level that are behind the split.

        Its towers lose their first convolutions for the time of the call, which is past the hooks on the head.
        """
        head: Any = self.head
        towers = {name: child(head, name) for name in TOWERS}
        try:
            for side, (name, tower) in enumerate(towers.items()):
                head.add_module(name, nn.ModuleList([_Side(side), *tower[self.split :]]))
            outputs: Sequence[Sequence[Tensor]] = head.forward(pairs)
        finally:
            for name, tower in towers.items():
                head.add_module(name, tower)
        return outputs

    def _count_outputs(self) -> int:
        """Run the rest of the head on tiny maps and return how many kinds of output it has, two or three."""
        parameter = next(self.head.parameters())
        cls, reg = (parameter.new_zeros(1, width, 2, 2) for width in self.widths)
        try:
            with torch.no_grad():
                outputs = self._run([(cls, reg)] * self.levels)
                self.outputs.output(outputs).boxes()
            if len(outputs) in (2, 3):
                return len(outputs)
        except Exception as error:
            raise _unfit(self.head) from error
        raise _unfit(self.head)


class _Side(nn.Module):
    """Select one side of a (classification, regression) pair, instead of the first convolutions of a tower."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return pair[self.side]


def split_ahead_of_last(heads: Sequence[nn.Module]) -> int:
    """Return the split that leaves one convolution of the shortest tower of some heads to the teacher, at least 1."""
    towers = [child(head, name) for head in heads for name in TOWERS]
    return max(1, min((len(tower) for tower in towers if isinstance(tower, nn.ModuleList)), default=0) - 1)


def align_scale(feature: Tensor, teacher: Tensor) -> Tensor:
    """Return ``feature`` with the teacher's mean and standard deviation by channel, over batch and space.

    ``(F_s - mean_s) / (std_s + 1e-6) * std_t + mean_t``, deviations unbiased, as CrossKD's public code.

    Args:
        feature: ``(B, C, H, W)``; computed in at least float32, returned in its own dtype.
        teacher: ``(B, C, H', W')``, a constant.
    """
    standardized, _, _ = standardized_channels(full_precision(feature))
    _, std, mean = standardized_channels(full_precision(teacher.detach()).to(standardized.dtype))
    return (standardized * std + mean).to(feature.dtype)


def _unfit(head: nn.Module) -> ValueError:
    return ValueError(
        f"CrossKD: {type(head).__name__} is not a dense head of two towers (cls_convs, reg_convs) that end in class "
        "and box maps, so no features can cross into it; RetinaNet, FCOS, ATSS and GFL have one; else take pkd, cwd, "
        "fgd or mtkd_ssr"
    )
