"""Boxes compared where they matter (LD)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou, distance_box_iou

from kd_mm.losses.base import Loss, LossContext
from kd_mm.losses.dense_output import DenseHead, DenseOutput, bin_divergence, paired_overlaps
from kd_mm.losses.observation import Observation
from kd_mm.losses.region_output import RegionHead
from kd_mm.registry import MODELS
from kd_mm.stages.tap import child
from kd_mm.utils.suggest import choice

_EPS = torch.finfo(torch.float32).eps
#: Anchors nearest to an object that are looked at on each level, as ATSS does.
_NEAREST = 9


@MODELS.register_module()
class LDLoss(Loss):
    """Compare the boxes of student and teacher, position by position: localisation distillation.

    LD (Zheng et al., CVPR 2022, arXiv 2102.12252, and TPAMI 2023) for heads that regress each side of a box as a
    distribution over bins (GFL). With the student's and the teacher's logits z and t of position i,
    ``d_i = T^2 / 4 sum_sides KL(softmax(t_i / T) || softmax(z_i / T))``, over two regions:

    * ``main``: what the student's own targets count as objects, weighted by ``w_i = max_k sigmoid(c_ik)``, the
      student's class score, a constant.
    * ``vlr``, the valuable localisation region: the other anchors of ``gamma alpha <= DIoU < alpha`` with an object,
      alpha being the object's threshold by ATSS, ``mean + deviation`` of the IoU of the nine nearest anchors of each
      level; weighted by the IoU.

    Heads that regress numbers (RetinaNet, FCOS, ATSS; the RoI head of Faster R-CNN on the student's sampled regions)
    compare decoded boxes, ``d_i = 1 - GIoU_i`` or ``d_i = 1/4 sum_sides |b_s - b_t| / size``, size being width or
    height of the teacher's box, at least a pixel. All positions count, by ``w_i = (teacher's largest class
    score)^focus``, under the name ``confident``. That is our reading, after CrossKD's box term.

    Public code: ``HikariTJU/LD`` and mmdet's ``LDHead``, which divide by the number of bins, and sum over positions:
    the same numbers come of ``reduction="sum"`` and a weight of ``0.25 / bins`` (``vlr``: ``0.0625 / bins``). Here the
    two regions do not overlap, as in the paper.

    Args:
        box: ``"kl"``, ``"giou"``, ``"l1"`` or ``"auto"``: ``"kl"`` where both heads regress the same bins, else
            ``"giou"``. Default: ``"auto"``.
        region: ``"assigned"`` (main and valuable region), ``"confident"`` or ``"auto"``: ``"assigned"`` with ``"kl"``.
            Default: ``"auto"``.
        main_weight: Weight of ``main`` or ``confident``. Default: 1.
        vlr_weight: Weight of ``vlr``. Default: 0.25.
        temperature: T > 0 of ``"kl"``, dimensionless. Default: 10.
        gamma: Lower end of the valuable region as a share of alpha. Default: 0.25.
        focus: Exponent of the teacher's score. Default: 2.
        reduction: Of the weighted distances of a region: ``"mean"``, divided by the sum of the weights, which is our
            reading, or ``"sum"``. Default: ``"mean"``.
        optional: Leave the loss out, with a line in the log, where the boxes of student and teacher cannot be compared.
            Default: False, which is an error then.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For an unknown ``box``, ``region`` or ``reduction``; before training, for detectors whose positions
            are not the same, or that predict boxes neither on a grid nor in regions; on use, for ``"kl"`` with heads
            without equal bins, or ``"assigned"`` with a student whose targets cannot be read.
    """

    requires = frozenset({"student.taps", "student.assignment", "student.targets", "teacher.taps"})
    tasks = frozenset({"detection"})
    instead = "it compares boxes; take a loss on logits or maps (recipes kd, dkd, fitnets)"

    def __init__(
        self,
        box: str = "auto",
        region: str = "auto",
        main_weight: float = 1.0,
        vlr_weight: float = 0.25,
        temperature: float = 10.0,
        gamma: float = 0.25,
        focus: float = 2.0,
        reduction: str = "mean",
        optional: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.box = choice("box", box, ("auto", "kl", "giou", "l1"))
        self.region = choice("region", region, ("auto", "assigned", "confident"))
        self.reduction = choice("reduction", reduction, ("mean", "sum"))
        self.weights = {"main": main_weight, "confident": main_weight, "vlr": vlr_weight}
        self.temperature, self.gamma, self.focus = temperature, gamma, focus
        self.optional = optional
        self._heads: tuple[Any, Any]

    def extra_taps(self, student: nn.Module, teacher: nn.Module) -> tuple[Sequence[str], Sequence[str]]:
        """Return the taps of both heads' outputs.

        Raises:
            ValueError: For detectors whose boxes cannot be compared position by position.
        """
        self._heads = self._pair(student, teacher)
        own, other = self._heads
        self.runs_teacher = not own.on_grid
        return own.student_taps, other.teacher_taps

    def _pair(self, student: nn.Module, teacher: nn.Module) -> tuple[Any, Any]:
        models = (student, teacher)
        if all(DenseHead.fits(child(model, "bbox_head")) for model in models):
            own, other = (DenseHead(model.get_submodule("bbox_head")) for model in models)
            if own.grid != other.grid:
                raise ValueError(
                    f"LDLoss: the student has levels of (stride, anchors) {own.grid}, the teacher {other.grid}; boxes "
                    "are compared position by position, so take a loss on maps (recipes pkd, mgd, fgd)"
                )
            return own, other
        if all(RegionHead.fits(model) for model in models) and self.box != "kl" and self.region != "assigned":
            return RegionHead(student), RegionHead(teacher)
        names = " and ".join(type(model).__name__ for model in models)
        raise ValueError(
            f"LDLoss: {names} do not both have a dense head of two towers (RetinaNet, FCOS, ATSS, GFL) or, but for "
            "box='kl' and region='assigned', both a RoI head on regions (Faster R-CNN), so that no box of one "
            "belongs to a box of the other; take a loss on maps (recipes pkd, mgd, fgd)"
        )

    def setup(self, context: LossContext) -> None:
        """Check before training that the heads' outputs, as measured, can be compared."""
        sides = (context.student_taps, context.teacher_taps)
        if self._heads[0].on_grid:
            empty = [{tap: torch.empty(shape, device="meta") for tap, shape in side.items()} for side in sides]
            own, other = self._heads
            self._check(*own.read_pair(other, *empty))

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        head, other = self._heads
        own, target = head.read_pair(other, student.taps, teacher.taps, student.assignment)
        anchors = head.anchors(student.taps) if self._by_assignment(own, target) else ()
        return self.compare(own, target, anchors, student.targets.boxes)

    def compare(
        self, own: DenseOutput, target: DenseOutput, anchors: Sequence[Tensor] = (), objects: Sequence[Tensor] = ()
    ) -> dict[str, Tensor]:
        """Return the weighted terms of two outputs.

        Args:
            own: The student's output.
            target: The teacher's.
            anchors: The student's anchors ``(N_level, 4)`` by level, in pixels; unused without a valuable region.
            objects: Per image the boxes of its objects ``(n, 4)``, likewise.

        Raises:
            ValueError: If they have different positions, or not what ``box`` and ``region`` need.
        """
        self._check(own, target)
        if self._by_assignment(own, target):
            weights = self._assigned(own, anchors, objects)
        else:
            counted = 1.0 if own.assignment is None else own.assignment.counted
            weights = {"confident": target.confidence() ** self.focus * counted}
        terms = {}
        for name, weight in weights.items():
            chosen = weight > 0  # other positions are not compared
            total = (self._distances(own, target, chosen) * weight[chosen]).sum()
            mean = total / weight.sum().clamp(min=_EPS)
            terms[name] = self.weights[name] * (total if self.reduction == "sum" else mean)
        return terms

    def _assigned(self, own: DenseOutput, anchors: Sequence[Tensor], objects: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the weights ``(B, N)`` of the positions of each region."""
        assignment = own.assignment
        if assignment is None:
            raise ValueError("LDLoss: the targets of this student cannot be read; take region='confident'")
        main = own.confidence() * assignment.positive
        if not self.weights["vlr"]:
            return {"main": main}
        region = torch.stack([valuable_region(anchors, boxes, self.gamma) for boxes in objects])
        return {"main": main, "vlr": region * assignment.counted * ~assignment.positive}

    def _distances(self, own: DenseOutput, target: DenseOutput, chosen: Tensor) -> Tensor:
        """Return the distance of each chosen position, of a mask ``(B, N)``."""
        if self._by_bins(own, target):
            return bin_divergence(own.reg[chosen], target.reg[chosen], self.temperature)
        boxes, others = own.boxes()[chosen], target.boxes().detach()[chosen]
        if self.box == "l1":
            size = (others[:, 2:] - others[:, :2]).clamp(min=1).repeat(1, 2)
            return ((boxes - others).abs() / size).mean(dim=1)
        return 1 - paired_overlaps(boxes, others)

    def _by_assignment(self, own: DenseOutput, target: DenseOutput) -> bool:
        by_bins = self._by_bins(own, target) and own.assignment is not None
        return self.region == "assigned" or (self.region == "auto" and by_bins)

    def _by_bins(self, own: DenseOutput, target: DenseOutput) -> bool:
        return own.reg.shape[-1] == target.reg.shape[-1] > 4 and self.box in ("auto", "kl")

    def _check(self, own: DenseOutput, target: DenseOutput) -> None:
        if own.reg.shape[:2] != target.reg.shape[:2]:
            raise ValueError(
                f"LDLoss: the student has boxes at {tuple(own.reg.shape[:2])} positions (images, positions), the "
                f"teacher at {tuple(target.reg.shape[:2])}; both need the same strides, anchors and input size"
            )
        if self.box == "kl" and not self._by_bins(own, target):
            bins = [output.reg.shape[-1] // 4 for output in (own, target)]
            raise ValueError(
                f"LDLoss: box='kl' compares distributions over the same bins (GFL of one reg_max), but the student has "
                f"{bins[0]} a side and the teacher {bins[1]}; take box='giou'"
            )


def valuable_region(anchors: Sequence[Tensor], objects: Tensor, gamma: float = 0.25) -> Tensor:
    """Return the weights ``(N,)`` of an image's anchors in the valuable localisation region, 0 outside of it.

    Args:
        anchors: ``(N_level, 4)`` by level, x1, y1, x2, y2 in pixels.
        objects: ``(n, 4)``, likewise.
        gamma: Lower end as a share of the threshold alpha. Default: 0.25.
    """
    every, objects = torch.cat(list(anchors)), objects.to(anchors[0])
    if not len(objects):
        return every.new_zeros(len(every))
    overlaps = box_iou(every, objects)
    centre, others = ((boxes[:, :2] + boxes[:, 2:]) / 2 for boxes in (every, objects))
    # Products lose the digits that tell neighbours apart.
    distances = torch.cdist(centre, others, compute_mode="donot_use_mm_for_euclid_dist")
    sizes, nearest = [len(level) for level in anchors], []
    for overlap, distance in zip(overlaps.split(sizes), distances.split(sizes), strict=True):
        found = distance.topk(min(_NEAREST, len(distance)), dim=0, largest=False).indices
        nearest.append(overlap.gather(0, found))
    deviation, mean = torch.std_mean(torch.cat(nearest), dim=0)
    upper, relation = mean + deviation, distance_box_iou(every, objects)
    return (overlaps * ((relation < upper) & (relation >= gamma * upper))).amax(dim=1)
