"""The outputs of a dense detection head as one tensor a kind, and the boxes that they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.losses.functional import full_precision, softened, softmax_divergence
from kd_mm.losses.observation import DenseAssignment
from kd_mm.stages.tap import child

TOWERS = ("cls_convs", "reg_convs")
#: mmdet's bases of heads whose box coder decodes their outputs; others (FoveaHead) transform them first.
_BASES = frozenset({"AnchorHead", "FCOSHead"})
#: Limit of box coordinates in pixels; keeps areas finite in float32.
_FARTHEST = 1e8


@dataclass(frozen=True)
class DenseOutput:
    """Outputs of a dense head, all levels in one: shallow to deep, then rows, columns, anchors.

    Attributes:
        cls: Class logits ``(B, N, K)``.
        reg: Raw box regression ``(B, N, D)``.
        decode: Maps a raw regression to boxes; see :meth:`boxes`.
        quality: Logits of centerness ``(B, N)``, where the head has one.
        assignment: The student's targets, where they are known.
        background: Whether the classes exclude each other and the last one is background.
    """

    cls: Tensor
    reg: Tensor
    decode: Callable[[Tensor], Tensor]
    quality: Tensor | None = None
    assignment: DenseAssignment | None = None
    background: bool = False

    def boxes(self) -> Tensor:
        """Return ``(B, N, 4)``, x1, y1, x2, y2 in pixels of the padded batch, as the head's own coder decodes them.

        Coordinates stay finite where a regression diverges.
        """
        return self.decode(self.reg).clamp(-_FARTHEST, _FARTHEST)

    def confidence(self) -> Tensor:
        """Return the largest probability of an object's class ``(B, N)``, at least float32 and without gradient."""
        logits = full_precision(self.cls.detach())
        return (logits.softmax(dim=-1)[..., :-1] if self.background else logits.sigmoid()).amax(dim=-1)


class DenseHead:
    """A dense head of two towers whose outputs are recorded.

    Args:
        head: A detector's ``bbox_head``.
        kinds: Kinds of output that are read: class maps, regression maps, centerness maps.

    Attributes:
        taps: Taps of the outputs, kind by kind, level by level; ``student_taps`` and ``teacher_taps`` are the same.
        levels: Number of levels.
    """

    #: Whether positions are those of a grid; else they are regions (:class:`kd_mm.losses.region_output.RegionHead`).
    on_grid = True

    def __init__(self, head: nn.Module, kinds: int = 2) -> None:
        self.head: Any = head
        generator: Any = head.prior_generator
        self.levels: int = generator.num_levels
        self.taps = tuple(f"bbox_head[{k}][{level}]" for k in range(kinds) for level in range(self.levels))
        self.student_taps = self.teacher_taps = self.taps

    def __deepcopy__(self, memo: dict[int, Any]) -> DenseHead:
        return self  # a copied loss decodes by the same head

    @staticmethod
    def fits(head: nn.Module | None) -> bool:
        """Return whether a head has two towers of convolutions and a coder that decodes what it gives."""
        towers = [child(head, name) for name in TOWERS]
        chains = [tower for tower in towers if isinstance(tower, nn.ModuleList) and len(tower)]
        based = _BASES & {base.__name__ for base in type(head).__mro__}
        return bool(based) and len(chains) == len(TOWERS) and getattr(head, "prior_generator", None) is not None

    @property
    def grid(self) -> list[tuple[int, int]]:
        """Stride in pixels and number of anchors of a cell, by level."""
        generator = self.head.prior_generator
        pairs = zip(generator.strides, generator.num_base_priors, strict=True)
        return [(int(stride[0]), int(anchors)) for stride, anchors in pairs]

    def anchors(self, records: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the anchors ``(N_level, 4)`` by level, in pixels, of the recorded tensors of :attr:`taps`.

        The points of a head without anchors (FCOS) stand for squares of eight strides around them, ATSS's anchors.
        """
        maps = [records[tap] for tap in self.taps[: self.levels]]
        sizes = [(one.shape[2], one.shape[3]) for one in maps]
        levels = grid_priors(self.head, sizes, maps[0].float())
        half = torch.tensor([-4.0, -4.0, 4.0, 4.0], device=levels[0].device)
        pairs = zip(levels, self.grid, strict=True)
        return [one if one.shape[1] == 4 else one.repeat(1, 2) + stride * half for one, (stride, _) in pairs]

    def read(self, records: Mapping[str, Tensor], assignment: DenseAssignment | None = None) -> DenseOutput:
        """Return the output in the recorded tensors of :attr:`taps`."""
        maps = [records[tap] for tap in self.taps]
        return self.output([maps[k : k + self.levels] for k in range(0, len(maps), self.levels)], assignment)

    def read_pair(
        self,
        teacher: DenseHead,
        records: Mapping[str, Tensor],
        teacher_records: Mapping[str, Tensor],
        assignment: DenseAssignment | None = None,
    ) -> tuple[DenseOutput, DenseOutput]:
        """Return the outputs of a student that has this head and of its teacher."""
        return self.read(records, assignment), teacher.read(teacher_records)

    def output(self, outputs: Sequence[Sequence[Tensor]], assignment: DenseAssignment | None = None) -> DenseOutput:
        """Return what the head's forward gave, two or three kinds of maps by level."""
        cls_maps, reg_maps = outputs[:2]
        anchors = cls_maps[0].shape[1] // self.head.cls_out_channels
        quality = None
        if len(outputs) > 2 and outputs[2][0].shape[1] == anchors:
            quality = flatten_levels(outputs[2], 1)[..., 0]
        return DenseOutput(
            cls=flatten_levels(cls_maps, self.head.cls_out_channels),
            reg=flatten_levels(reg_maps, reg_maps[0].shape[1] // anchors),
            decode=partial(decode_boxes, self.head, [(level.shape[2], level.shape[3]) for level in cls_maps]),
            quality=quality,
            assignment=assignment,
            background=not getattr(self.head, "use_sigmoid_cls", True),
        )


def flatten_levels(maps: Sequence[Tensor], width: int) -> Tensor:
    """Return maps ``(B, A * width, H, W)`` of all levels as ``(B, N, width)``."""
    return torch.cat([level.permute(0, 2, 3, 1).reshape(len(level), -1, width) for level in maps], dim=1)


def decode_boxes(head: Any, sizes: Sequence[tuple[int, int]], reg: Tensor) -> Tensor:
    """Return the boxes ``(B, N, 4)`` in pixels that the head's own box coder decodes, at least float32.

    Args:
        head: A dense head with ``prior_generator`` and ``bbox_coder``; with ``integral`` where it regresses bins.
        sizes: Height and width of the maps by level, in cells.
        reg: ``(B, N, D)``.
    """
    from mmdet.structures.bbox import get_box_tensor  # only detectors need mmdet

    reg = full_precision(reg)
    levels = grid_priors(head, sizes, reg)
    priors = torch.cat(levels).repeat(len(reg), 1)
    flat = reg.flatten(0, 1)
    # In training FCOS gives distances in strides where it normalises them, in evaluation in pixels.
    in_strides = head.training and getattr(head, "norm_on_bbox", False)
    if hasattr(head, "integral"):
        flat, in_strides, priors = head.integral(flat), True, (priors[:, :2] + priors[:, 2:]) / 2
    if in_strides:
        pairs = zip(levels, head.prior_generator.strides, strict=True)
        strides = [level.new_full((len(level), 1), stride[0]) for level, stride in pairs]
        flat = flat * torch.cat(strides).repeat(len(reg), 1)
    boxes = head.bbox_coder.decode(priors, flat)
    return get_box_tensor(boxes).view(len(reg), -1, 4)


def grid_priors(head: Any, sizes: Sequence[tuple[int, int]], like: Tensor) -> list[Tensor]:
    """Return a dense head's anchors ``(N_level, 4)`` or points ``(N_level, 2)`` by level, in pixels.

    Args:
        head: A dense head with ``prior_generator``.
        sizes: Height and width of the maps by level, in cells.
        like: Gives dtype and device.
    """
    from mmdet.structures.bbox import get_box_tensor

    levels = head.prior_generator.grid_priors(list(sizes), dtype=like.dtype, device=like.device)
    return [get_box_tensor(level) for level in levels]


def paired_overlaps(student: Tensor, teacher: Tensor, mode: str = "giou") -> Tensor:
    """Return the overlaps ``(...)`` of boxes ``(..., 4)``.

    Args:
        student: Boxes x1, y1, x2, y2 in pixels, at least float32.
        teacher: Likewise, one for each.
        mode: ``"iou"`` or ``"giou"``. Default: ``"giou"``.
    """
    from mmdet.structures.bbox import bbox_overlaps

    overlaps: Tensor = bbox_overlaps(student, teacher, mode=mode, is_aligned=True)
    return overlaps


def bin_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return ``T^2 / 4 sum_sides KL(softmax(t / T) || softmax(z / T))`` of boxes as distributions over bins: ``(...)``.

    Args:
        student: Logits ``(..., 4 * bins)``.
        teacher: Likewise; a constant.
        temperature: T > 0, dimensionless.
    """
    sides = (softened(reg, temperature).unflatten(-1, (4, -1)) for reg in (student, teacher.detach()))
    return softmax_divergence(*sides).sum(dim=-1) * (temperature**2 / 4)
