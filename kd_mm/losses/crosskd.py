"""Predictions of the student's features in the teacher's head (CrossKD, Wang et al., CVPR 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_mm.losses.base import Loss
from kd_mm.losses.dense_output import TOWERS, DenseHead, DenseOutput, bin_divergence, paired_overlaps
from kd_mm.losses.functional import full_precision, standardized_channels
from kd_mm.losses.observation import DenseAssignment, Observation
from kd_mm.registry import MODELS
from kd_mm.stages.tap import child
from kd_mm.utils.suggest import choice

_EPS = torch.finfo(torch.float32).eps


@MODELS.register_module()
class CrossKDLoss(Loss):
    """Compare the predictions of the student's features in the frozen teacher head with the teacher's: CrossKD.

    CrossKD (Wang et al., CVPR 2024, arXiv 2306.11369): the student's features after convolution ``split`` of each tower
    of its dense head go through the rest of the teacher's head (:class:`CrossHeadForward`). Over all
    positions and anchors i, with the crossed logits z, the teacher's t, and w_i = 0 where the student's own targets
    ignore i, else 1:

    * ``cls``: ``sum_i w_i sum_k |sigmoid(z) - sigmoid(t)|^focus BCE(z, sigmoid(t)) / n`` (quality focal loss), n being
      the number of positives that the student's classification loss is divided by;
    * ``box``, with v_i = w_i max_k sigmoid(t_ik): ``"giou"``: ``sum_i v_i (1 - GIoU_i) / n``; ``"iou"``:
      ``sum_i -v_i log IoU_i / n``; ``"kl"`` (distributions over bins, GFL), on the four sides s:
      ``sum_i v_i / 4 sum_s T^2 KL(softmax(t_is / T) || softmax(z_is / T)) / sum_i v_i``;
    * ``quality`` (only with a weight): ``sum over positives of BCE(z, sigmoid(t)) / n`` of centernesses.

    Public code: ``jbwang1997/CrossKD``. Without an assignment (an unusual head) w = 1 and n is the sum of v, at least
    1: our reading.

    Args:
        box: ``"giou"``, ``"iou"``, ``"kl"`` or ``"auto"``: ``"kl"`` for a head that regresses bins, else ``"giou"``.
            Default: ``"auto"``.
        cls_weight: Weight of ``cls``. Default: 1.
        box_weight: Weight of ``box``. Default: 4 with ``"kl"``, else 1.
        quality_weight: Weight of ``quality``, for heads with a centerness. Default: 0.
        focus: Exponent of the quality focal loss (beta of the public code). Default: 1.
        temperature: T of ``"kl"``, dimensionless. Default: 1.
        split: Convolutions of each tower that remain the student's. Default: all but one of the shortest tower of
            either detector, at least one; that is 3 with the usual four.
        align: Whether the student's features get the teacher's mean and deviation by channel first. Default: True.
        optional: Leave the loss out, with a line in the log, where the heads do not fit; with a ``split`` they have to.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For an unknown ``box``; on use, for outputs of different shapes, or for ``"kl"`` with a head without
            bins.
    """

    requires = frozenset({"student.taps", "student.assignment", "teacher.taps"})
    runs_teacher = True

    def __init__(
        self,
        box: str = "auto",
        cls_weight: float = 1.0,
        box_weight: float | None = None,
        quality_weight: float = 0.0,
        focus: float = 1.0,
        temperature: float = 1.0,
        split: int | None = None,
        align: bool = True,
        optional: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.box = choice("box", box, ("auto", "giou", "iou", "kl"))
        self.cls_weight, self.box_weight, self.quality_weight = cls_weight, box_weight, quality_weight
        self.focus, self.temperature, self.split, self.align = focus, temperature, split, align
        self.optional = optional and split is None
        self._crossing: CrossHeadForward

    def extra_taps(self, student: nn.Module, teacher: nn.Module) -> tuple[Sequence[str], Sequence[str]]:
        """Return the taps behind the split of both heads, and those of the teacher's outputs.

        Raises:
            ValueError: For heads that :class:`CrossHeadForward` refuses.
        """
        for model in (student, teacher):
            if "bbox_head" not in dict(model.named_children()):
                raise _unfit(model)
        heads = student.get_submodule("bbox_head"), teacher.get_submodule("bbox_head")
        towers = [tower for head in heads for name in TOWERS if isinstance(tower := child(head, name), nn.ModuleList)]
        ahead_of_last = max(1, min(map(len, towers), default=0) - 1)
        self._crossing = CrossHeadForward(heads[1], ahead_of_last if self.split is None else self.split, self.align)
        self._crossing.check_student(heads[0])
        return self._crossing.tower_taps, self._crossing.teacher_taps

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        crossed = self._crossing.cross(student.taps, teacher.taps, student.assignment)
        return self.compare(crossed, self._crossing.outputs.read(teacher.taps))

    def compare(self, crossed: DenseOutput, target: DenseOutput) -> dict[str, Tensor]:
        """Return the weighted terms of the student's features in the teacher's head and the teacher's own output.

        Raises:
            ValueError: If they have different shapes, or no centerness where ``quality_weight`` is given.
        """
        if crossed.cls.shape != target.cls.shape:
            raise ValueError(
                f"CrossKDLoss: the student's features give {tuple(crossed.cls.shape)} class logits in the teacher's "
                f"head, the teacher's own {tuple(target.cls.shape)}; both heads must have the same levels and strides"
            )
        probability, assignment = full_precision(target.cls.detach()).sigmoid(), crossed.assignment
        counted = torch.ones_like(probability[..., 0]) if assignment is None else assignment.counted.to(probability)
        confidence = probability.amax(dim=-1) * counted
        count = confidence.sum().clamp(min=1)
        if assignment is not None:
            count = torch.as_tensor(assignment.normalizer, dtype=counted.dtype, device=counted.device) + _EPS
        terms = {
            "cls": self.cls_weight * self.classes(full_precision(crossed.cls), probability, counted) / count,
            "box": self.boxes(crossed, target, confidence, count),
        }
        if self.quality_weight:
            if crossed.quality is None or target.quality is None or assignment is None:
                raise ValueError("CrossKDLoss: quality_weight needs a head with centerness (ATSS, FCOS); leave it 0")
            quality, wanted = full_precision(crossed.quality), full_precision(target.quality.detach()).sigmoid()
            cross = F.binary_cross_entropy_with_logits(quality, wanted, reduction="none")
            terms["quality"] = self.quality_weight * (cross * assignment.positive.to(cross)).sum() / count
        return terms

    def classes(self, crossed: Tensor, probability: Tensor, counted: Tensor) -> Tensor:
        """Return the summed quality focal loss of logits ``(B, N, K)`` for probabilities ``(B, N, K)``."""
        cross = F.binary_cross_entropy_with_logits(crossed, probability, reduction="none")
        return (cross * (crossed.sigmoid() - probability).abs().pow(self.focus) * counted[..., None]).sum()

    def boxes(self, crossed: DenseOutput, target: DenseOutput, confidence: Tensor, count: Tensor) -> Tensor:
        """Return the weighted box term, ``confidence`` ``(B, N)`` being the weight of each position."""
        binned = self.box == "kl" or (self.box == "auto" and target.reg.shape[-1] > 4)
        weight = (4.0 if binned else 1.0) if self.box_weight is None else self.box_weight
        if binned:
            if target.reg.shape[-1] <= 4 or target.reg.shape[-1] % 4:
                raise ValueError(
                    "CrossKDLoss: box='kl' compares distributions over bins (GFL), but this head gives "
                    f"{target.reg.shape[-1]} values a box; use box='giou'"
                )
            divergence = bin_divergence(crossed.reg, target.reg, self.temperature)
            return weight * (divergence * confidence).sum() / confidence.sum().clamp(min=_EPS)
        mode = "iou" if self.box == "iou" else "giou"
        overlap = paired_overlaps(crossed.boxes(), target.boxes().detach(), mode)
        distance = -overlap.clamp(min=1e-6).log() if mode == "iou" else 1 - overlap
        return weight * (distance * confidence).sum() / count


class CrossHeadForward:
    """The teacher's head, run without the convolutions ahead of a split, with all that follows its towers.

    Student and teacher are tapped behind convolution ``split`` of each tower, activation included.

    Args:
        head: The teacher's dense head, its ``bbox_head``, frozen and in eval mode.
        split: Convolutions of each tower that remain the student's, at least 1. Default: 3.
        align: Whether features get the teacher's mean and deviation by channel, over batch and space of a level,
            before they enter; the public code does, and rectifies after. Default: True.

    Attributes:
        tower_taps: Taps of the features behind the split in either detector, levels of classification first.
        outputs: The teacher's own head outputs: class maps by level, regression maps, centerness maps if any.
        teacher_taps: All taps of the teacher: its outputs, and its tower features where the student's are aligned.

    Raises:
        ValueError: For a head that is not made of two towers, or a split beyond them.
    """

    def __init__(self, head: nn.Module, split: int = 3, align: bool = True) -> None:
        widths, towers = _widths(head), [list(child(head, name).children()) for name in TOWERS]
        shortest = min(map(len, towers))
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
        self.outputs = DenseHead(head, kinds=self._count_outputs())
        self.tower_taps = tuple(
            f"bbox_head.{tower}.{split - 1}#{level}" for tower in TOWERS for level in range(self.levels)
        )
        self.teacher_taps = (*self.tower_taps, *self.outputs.taps) if align else self.outputs.taps

    def __deepcopy__(self, memo: dict[int, Any]) -> CrossHeadForward:
        return self  # a teacher is shared by copies of what learns from it

    def check_student(self, head: nn.Module) -> None:
        """Compare the student's towers with the teacher's at the split.

        Raises:
            ValueError: If they have other levels, anchors or another width, or the head has no such towers.
        """
        widths = [width for tower in _widths(head) for width in tower[self.split - 1 : self.split]]
        grid = DenseHead(head).grid
        if (widths, grid) != (self.widths, self.outputs.grid):
            raise ValueError(
                f"CrossKD: the student's head has {widths} channels behind convolution {self.split} of its towers, the "
                f"teacher's {self.widths}, levels of (stride, anchors) {grid}, the teacher's {self.outputs.grid}; give "
                "both the same feat_channels, anchor_generator and num_outs of their necks"
            )

    def cross(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], assignment: DenseAssignment | None = None
    ) -> DenseOutput:
        """Return the output of the teacher's head on the student's features; gradients reach the features only.

        The tensors are the student's of :attr:`tower_taps` and the teacher's of :attr:`teacher_taps`.
        """
        entered = [self._entered(tap, k // self.levels, student, teacher) for k, tap in enumerate(self.tower_taps)]
        pairs = list(zip(entered[: self.levels], entered[self.levels :], strict=True))
        return self.outputs.output(self._run(pairs), assignment)

    def _entered(self, tap: str, side: int, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
        feature = student[tap]
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


def align_scale(feature: Tensor, teacher: Tensor) -> Tensor:
    """Return ``feature`` ``(B, C, H, W)`` with the teacher's mean and deviation by channel, over batch and space.

    ``(F_s - mean_s) / (std_s + 1e-6) * std_t + mean_t`` in at least float32, deviations unbiased, as in public code.
    """
    standardized, _, _ = standardized_channels(full_precision(feature))
    _, std, mean = standardized_channels(full_precision(teacher.detach()).to(standardized.dtype))
    return (standardized * std + mean).to(feature.dtype)


def _widths(head: nn.Module) -> list[list[int]]:
    """Return the channels behind each convolution of both towers of a head."""
    if not DenseHead.fits(head):
        raise _unfit(head)
    towers: list[Any] = [child(head, name) for name in TOWERS]
    widths = [[getattr(conv, "out_channels", 0) for conv in tower] for tower in towers]
    if not all(all(tower) for tower in widths):
        raise _unfit(head)
    return widths


def _unfit(network: nn.Module) -> ValueError:
    return ValueError(
        f"CrossKD: {type(network).__name__} has no dense head of two towers (cls_convs, reg_convs) that end in class "
        "and box maps, so no features can cross into it; RetinaNet, FCOS, ATSS and GFL have one; else take the recipe "
        "kd, pkd, cwd, fgd or mtkd_ssr"
    )
