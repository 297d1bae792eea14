"""Object detection: stage logits of a detector, and how its own logits are read."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou

from kd_mm.losses import Loss
from kd_mm.losses.functional import full_precision
from kd_mm.losses.region_output import REGION_TAPS
from kd_mm.registry import TASKS
from kd_mm.stages.tap import child
from kd_mm.tasks.base import Batch, ExitScore, Task
from kd_mm.tasks.dense_targets import assigning, read_assignment
from kd_mm.tasks.detector_heads import DetectorHeads, keep_deployed_branch, trident_test_branch
from kd_mm.tasks.prediction_readers import LogitsReader
from kd_mm.tasks.targets import (
    DetectionTargets,
    average_precision,
    box_tensor,
    focal_losses,
    read_annotations,
    score_histogram,
)

_METRICS = {"image": "accuracy of presence", "cells": "average precision by cell"}


@TASKS.register_module()
class DetectionTask(Task):
    """Detection with any of mmdet's detectors.

    With exits of type ``kd_mm.CellExit`` stage logits are those of the classes in the cells of a grid, ``(B, K, h, w)``
    independent sigmoids, the same for every detector and free of anchors; with other exits of the classes in the image,
    ``(B, K)``. MTKD-SSR (Gou et al., IJCV 2023) names Pascal VOC but neither task nor stage logits; both forms are our
    reading. A detector's own logits are those of its (first) RoI head on the student's sampled regions, or the class
    maps of a dense head.

    Classes that an image holds only as ignored or difficult objects count neither way. Boxes are those after
    augmentation. Teachers see the student's padded batch; where they normalise otherwise, its padding is the student's
    mean colour instead of the teacher's.
    """

    name = "detection"
    unit = "objects"
    exit_on_last = True
    multilabel = True
    comparable_logits = False
    needs_trained_teacher = True
    # A multiple of every pyramid's coarsest stride, and enough for the valid convolutions at the end of SSD.
    default_size = 320

    def __init__(self) -> None:
        self.classes = 0
        self._assigned: list[Any] = []

    def setup(self, student: nn.Module, output: str) -> None:
        """Take note of the student's classes, one for upstream's RPN, and of what its exits classify."""
        self.output, self.metric = output, _METRICS[output]
        from mmdet.models.detectors import RPN  # not where no detector is trained

        heads = DetectorHeads.of(student)
        self.classes = heads.num_classes or 0
        self.class_agnostic = isinstance(student, RPN)
        self.classes_key = f"{'roi_head.' if heads.two_stage else ''}bbox_head.num_classes"

    def num_classes(self, model: nn.Module, logits: Tensor | None) -> int | None:
        """Return K, the number of foreground classes that the detector's head was built for."""
        return DetectorHeads.of(model).num_classes

    def logits_reader(self, model: nn.Module, student: bool) -> LogitsReader:
        """Return how the detector's own class logits are read.

        Raises:
            ValueError: The detector has neither a RoI head nor a dense head over a grid (e.g. DETR's set of queries).
        """
        heads = DetectorHeads.of(model)
        reader = heads.reader(student)
        if reader is None:
            raise ValueError(
                f"{type(model).__name__} ({heads.kind}) has no class logits on a grid or on regions that "
                "student and teacher could share; use losses on stages (mtkd_ssr, pkd, cwd, fgd) instead"
            )
        return reader

    def incomparable(self, student: nn.Module, teacher: nn.Module) -> str:
        return DetectorHeads.of(student).incomparable(DetectorHeads.of(teacher))

    def batch(
        self,
        student: nn.Module,
        inputs: Tensor,
        data_samples: Sequence[Any],
        records: Mapping[str, Tensor],
        reads: Collection[str],
    ) -> Batch:
        records = keep_deployed_branch(student, records, len(inputs))
        needed = bool({"student.targets", "student.valid_classes"} & set(reads))
        targets = self.targets(data_samples, records) if needed else None
        assignment = None
        if "student.assignment" in reads and self._assigned:
            assignment = read_assignment(child(student, "bbox_head"), self._assigned[-1], len(inputs))
        return Batch(
            records,
            targets=targets,
            valid_classes=targets.valid if targets is not None and self.output == "image" else None,
            assignment=assignment,
            sample_indices=self.sample_indices(data_samples) if "student.sample_indices" in reads else None,
            sampled=_sampled(records),
        )

    def targets(self, data_samples: Sequence[Any], records: Mapping[str, Tensor] | None = None) -> DetectionTargets:
        return replace(
            read_annotations(data_samples, self.classes, self.class_agnostic), sampled=_sampled(records or {})
        )

    def validation_targets(self, data_samples: Sequence[Any]) -> DetectionTargets:
        factors = [sample.metainfo.get("scale_factor", (1.0, 1.0))[:2] for sample in data_samples]
        return self.targets(data_samples).scaled(factors)

    @contextmanager
    def recording(self, student: nn.Module) -> Iterator[None]:
        """Record what the student's dense head, if it has one, assigns while it computes its own loss."""
        self._assigned.clear()
        with assigning(child(student, "bbox_head"), self._assigned):
            yield

    def exit_losses(self, model: nn.Module, logits: Tensor, targets: DetectionTargets) -> Tensor:
        """Return the task loss of each exit.

        By cell the focal loss, sum over cells and classes by positive cells; by image binary cross-entropy, mean over
        images and classes.
        """
        logits = full_precision(logits)
        if self.output == "cells":
            return focal_losses(logits, targets.cells(logits.shape[-2:]))
        present = targets.present.to(logits.dtype).expand_as(logits)
        loss = F.binary_cross_entropy_with_logits(logits, present, reduction="none")
        return (loss * targets.valid.to(logits.dtype)).mean(dim=(1, 2))

    def correct(self, logits: Tensor, targets: DetectionTargets) -> Tensor:
        """Return by image the share of classes whose presence is predicted right ``(B,)``."""
        right = (logits > 0) == (targets.present > 0)
        return (right * targets.valid).sum(dim=1) / targets.valid.sum(dim=1).clamp(min=1)

    def constant_scores(self, targets: DetectionTargets, width: int) -> Tensor:
        """Return by class what "absent" and "present" would score ``(K, 2)``."""
        share = targets.valid / targets.valid.sum(dim=1, keepdim=True).clamp(min=1)
        present = targets.present > 0
        return torch.stack([(share * ~present).sum(dim=0), (share * present).sum(dim=0)], dim=1)

    def tally(self, logits: Tensor, targets: DetectionTargets) -> Tensor:
        if self.output == "cells":
            return score_histogram(logits, targets.cells(logits.shape[-2:])).double()
        return super().tally(logits, targets)

    def measure(self, tally: Tensor) -> ExitScore:
        """Return of cells the average precision and that of the classes' frequency; see the base class."""
        if self.output != "cells":
            return super().measure(tally)
        score, chance = average_precision(tally)
        return ExitScore(score, chance, score <= chance)

    def check_losses(self, losses: Mapping[str, Loss]) -> None:
        """Refuse losses that do not read the logits of such exits; see the base class for errors."""
        super().check_losses(losses)
        for name, loss in losses.items():
            if loss.reads_exits and self.output not in loss.exit_outputs:
                fitting = {True: "kd_mm.CellExit", False: "kd_mm.SepConvExit"}["cells" in loss.exit_outputs]
                raise ValueError(
                    f"loss {name!r} ({type(loss).__name__}) reads logits of {' or '.join(sorted(loss.exit_outputs))}, "
                    f"and the exits classify {self.output}: take exits=dict(type={fitting!r}), or for cells the losses "
                    "kd_mm.CellResponseLoss and kd_mm.CellReviewLoss"
                )

    def forward(self, model: nn.Module, inputs: Tensor) -> Any:
        """Run backbone, neck and the heads whose logits can be read; no proposals, no post-processing.

        Raises:
            ValueError: The detector keeps several branches in inference.
        """
        trident_test_branch(model)
        features = model.extract_feat(inputs)  # type: ignore[operator]
        return features, DetectorHeads.of(model).run(features, inputs)

    def infer(self, model: nn.Module, inputs: Tensor) -> Any:
        network: Any = model
        return network.predict(inputs, [_sample(inputs) for _ in inputs], rescale=False)

    def score(self, model: nn.Module, inputs: Tensor, data_samples: Sequence[Any]) -> Tensor:
        """Return how many objects the best detections of an image find, and how many objects there are, ``(2,)``.

        Of each image as many detections as it has objects are looked at, best first: an object counts as found where
        one of its class overlaps it by 0.5 IoU. Ground truth is in pixels of the original image, as mmdet's pipelines
        load it.
        """
        network: Any = model
        found = total = 0
        for sample in network.predict(inputs, data_samples, rescale=True):
            truth, best = sample.gt_instances, sample.pred_instances
            total += len(truth)
            best = best[best.scores.argsort(descending=True)[: len(truth)]]
            if len(truth) and len(best):
                hits = box_iou(box_tensor(truth.bboxes), best.bboxes) >= 0.5
                if not self.class_agnostic:
                    hits &= truth.labels[:, None] == best.labels
                found += int(hits.any(dim=1).sum())
        return torch.tensor([found, total])

    def chance(self, num_classes: int) -> float:
        """Return the share of objects that boxes drawn at random would find: next to nothing."""
        return 0.02


def _sampled(records: Mapping[str, Tensor]) -> Tensor | None:
    return next((records[tap] for tap in REGION_TAPS if tap in records), None)


def _sample(inputs: Tensor) -> Any:
    from mmdet.structures import DetDataSample

    shape = tuple(inputs.shape[-2:])
    meta = {"img_shape": shape, "ori_shape": shape, "pad_shape": shape, "batch_input_shape": shape}
    return DetDataSample(metainfo={**meta, "scale_factor": (1.0, 1.0)})
