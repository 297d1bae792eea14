"""The targets of a detector's stage logits: by image, and by the cells of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou, sigmoid_focal_loss

from kd_mm.utils.suggest import StepError

#: Bins of the logits from -16 to 16 by which average precision is computed.
BINS = 1024


class CellTargets(NamedTuple):
    """What the cells of a grid hold.

    Attributes:
        present: ``(B, K, h, w)``, 1 where an object of the class covers the cell, else 0.
        counted: ``(B, h, w)``, 0 where ignored or difficult objects alone cover the cell, else 1.
    """

    present: Tensor
    counted: Tensor

    @property
    def positive(self) -> Tensor:
        """``(B, h, w)``, 1 where any object covers the cell, else 0."""
        return self.present.amax(dim=1)


def assign_cells(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    ignored: Sequence[Tensor],
    num_classes: int,
    shape: tuple[int, int],
    grid: tuple[int, int],
) -> CellTargets:
    """Return the classes of the cells of a grid over a batch of images.

    An object covers the cells whose centre lies in the central half (in width and height) of its box, and along each
    axis at least the cell at the centre of the box; both cells where that lies on their border, so that flipping image
    and boxes flips the targets. Our reading.

    Args:
        boxes: Per image ``(n, 4)``, x1, y1, x2, y2 in pixels.
        labels: Per image ``(n,)``, class indices.
        ignored: Per image ``(m, 4)``, boxes of ignored or difficult objects.
        num_classes: K.
        shape: Height and width in pixels of what the grid covers.
        grid: h and w, cells.
    """
    images = len(boxes)
    cell = boxes[0].new_tensor([shape[1] / grid[1], shape[0] / grid[0]])
    rows = _image_numbers(boxes) * num_classes + torch.cat(list(labels))
    present = _covered(torch.cat(list(boxes)), cell, rows, images * num_classes, grid)
    present = present.view(images, num_classes, *grid)
    left_out = _covered(torch.cat(list(ignored)), cell, _image_numbers(ignored), images, grid)
    return CellTargets(present, 1 - left_out * (1 - present.amax(dim=1)))


def _image_numbers(boxes: Sequence[Tensor]) -> Tensor:
    sizes = torch.tensor([len(each) for each in boxes])
    return torch.arange(len(boxes)).repeat_interleave(sizes).to(boxes[0].device)


def _covered(boxes: Tensor, cell: Tensor, rows: Tensor, num_rows: int, grid: tuple[int, int]) -> Tensor:
    """Return ``(num_rows, h, w)``, 1 where any of the boxes of a row covers the cell."""
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    reach = torch.maximum(size / 4, cell / 2)
    x, y = (
        ((torch.arange(count, device=boxes.device) + 0.5) * cell[axis] - centre[:, axis, None]).abs()
        <= reach[:, axis, None]
        for axis, count in ((0, grid[1]), (1, grid[0]))
    )
    covered = (y[:, :, None] & x[:, None, :]).to(boxes.dtype)
    return boxes.new_zeros(num_rows, *grid).index_add_(0, rows, covered).clamp(max=1)


def focal_losses(logits: Tensor, targets: CellTargets) -> Tensor:
    """Return the focal loss (gamma 2, no alpha) of N exits ``(N,)``: sum over cells and classes by positive cells.

    Args:
        logits: ``(N, B, K, h, w)``, at least float32.
        targets: Of the same grid.
    """
    present = targets.present.to(logits.dtype).expand_as(logits)
    losses = sigmoid_focal_loss(logits, present, alpha=-1, gamma=2) * targets.counted[:, None]
    return losses.flatten(1).sum(dim=1) / targets.positive.sum().clamp(min=1)


def score_histogram(logits: Tensor, targets: CellTargets) -> Tensor:
    """Return how many counted cells there are by class, presence and bin of the logit ``(K, 2, BINS)``.

    Args:
        logits: ``(B, K, h, w)``.
        targets: Of the same grid.
    """
    classes = logits.shape[1]
    bins = ((logits.float().clamp(-16, 15.999) + 16) * (BINS / 32)).long()
    rows = torch.arange(classes, device=logits.device)[:, None, None] * 2 + targets.present.long()
    counted = targets.counted[:, None].expand_as(logits) > 0
    return torch.bincount((rows * BINS + bins)[counted], minlength=classes * 2 * BINS).view(classes, 2, BINS)


def average_precision(histogram: Tensor) -> tuple[float, float]:
    """Return the average precision over cells, and that of always predicting the class's frequency.

    Both are means over the classes that occur; 0 where none does. Logits of one bin count as equal.

    Args:
        histogram: Of :func:`score_histogram`, summed over batches.
    """
    descending = histogram.double().flip(-1)
    positives, total = descending[:, 1].sum(dim=-1), descending.sum(dim=(1, 2))
    occurs = positives > 0
    found, counted = descending[:, 1].cumsum(dim=-1), descending.sum(dim=1).cumsum(dim=-1)
    precision = found / counted.clamp(min=1)
    by_class = (precision * descending[:, 1]).sum(dim=-1) / positives.clamp(min=1)
    if not occurs.any():
        return 0.0, 0.0
    return float(by_class[occurs].mean()), float((positives / total.clamp(min=1))[occurs].mean())


@dataclass(frozen=True)
class DetectionTargets:
    """The annotations of a batch after augmentation, in pixels of the padded batch.

    Attributes:
        present: ``(B, K)``, 1 where the class occurs in the image, else 0.
        valid: ``(B, K)``, 0 where it occurs only as ignored or difficult objects, else 1.
        boxes: Per image ``(n, 4)``, x1, y1, x2, y2.
        labels: Per image ``(n,)``, class indices.
        ignored: Per image ``(m, 4)``, boxes of ignored or difficult objects.
        shape: Height and width of the padded batch.
        sampled: ``(S, 5)``, image index and box: the regions that a two-stage student classifies in this step, where
            they are known.
    """

    present: Tensor
    valid: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    ignored: list[Tensor]
    shape: tuple[int, int]
    sampled: Tensor | None = None

    def sampled_labels(self) -> Tensor | None:
        """Return the class of each sampled region ``(S,)``, K for background; ``None`` where there are no regions.

        As a detector's own assigner labels them by default: ignored objects count as background.
        """
        return None if self.sampled is None else label_regions(self, self.sampled.detach())

    def cells(self, grid: Sequence[int]) -> CellTargets:
        """Return what the cells of a grid of h x w over the padded batch hold."""
        classes = self.present.shape[1]
        return assign_cells(self.boxes, self.labels, self.ignored, classes, self.shape, (grid[0], grid[1]))

    def scaled(self, factors: Sequence[tuple[float, float]]) -> DetectionTargets:
        """Return the same with the boxes of each image times its factors of width and height."""
        scales = [each.new_tensor([*factor, *factor]) for each, factor in zip(self.boxes, factors, strict=True)]
        boxes, ignored = (
            [each * scale for each, scale in zip(part, scales, strict=True)] for part in (self.boxes, self.ignored)
        )
        return replace(self, boxes=boxes, ignored=ignored)

    def __len__(self) -> int:
        return len(self.present)


def read_annotations(data_samples: Sequence[Any], num_classes: int, class_agnostic: bool = False) -> DetectionTargets:
    """Return the targets of mmdet's data samples: ground truth, ignored instances, shape of the padded batch.

    Args:
        data_samples: Those of the batch, after augmentation.
        num_classes: K, foreground classes of the student.
        class_agnostic: Whether objects of all classes are of class 0, as for a region proposal network.

    Raises:
        StepError: The samples hold no objects, but lanes, say.
        ValueError: An object is of a class that the student does not have.
    """
    if "gt_instances" not in data_samples[0]:
        raise StepError("the samples have no boxes of objects (gt_instances) for the exits to learn: take pkd or cwd")
    device = data_samples[0].gt_instances.labels.device
    present = torch.zeros(len(data_samples), num_classes, device=device)
    ignored = torch.zeros(len(data_samples), num_classes + 1, device=device)
    boxes, labels, left_out = [], [], []
    for i, sample in enumerate(data_samples):
        boxes.append(box_tensor(sample.gt_instances.bboxes))
        of_image = sample.gt_instances.labels
        labels.append(torch.zeros_like(of_image) if class_agnostic else of_image)
        try:
            present[i, labels[-1]] = 1.0
        except IndexError as error:
            raise ValueError(
                f"an annotated object is of class {int(labels[-1].max())}, but the student has {num_classes} classes:"
                " set its num_classes to the data's"
            ) from error
        left = sample.get("ignored_instances")
        has_boxes = left is not None and "bboxes" in left
        left_out.append(box_tensor(left.bboxes) if has_boxes else boxes[-1].new_zeros(0, 4))
        if left is not None and "labels" in left:
            # Some data sets give ignored objects of no class of its own the label -1 (mmdet's CrowdHuman); they go into
            # a column of their own, because picking the others out would wait for the device.
            others = torch.zeros_like(left.labels) if class_agnostic else left.labels
            ignored[i, torch.where((others >= 0) & (others < num_classes), others, num_classes)] = 1.0
    valid = 1.0 - ignored[:, :num_classes] * (1.0 - present)
    meta = data_samples[0].metainfo
    height, width = meta.get("batch_input_shape", meta.get("img_shape"))[:2]
    return DetectionTargets(present, valid, boxes, labels, left_out, (int(height), int(width)))


def label_regions(targets: DetectionTargets, regions: Tensor) -> Tensor:
    """Return the class of each region ``(R, 5)``: that of the ground truth it overlaps most, if by 0.5 IoU.

    Others are background (K).
    """
    background = targets.present.shape[1]
    found = torch.full((len(regions),), background, dtype=torch.long, device=regions.device)
    for i, boxes in enumerate(targets.boxes):
        inside = regions[:, 0] == i
        if len(boxes):
            overlap, which = box_iou(regions[inside, 1:], boxes).max(dim=1)
            found[inside] = torch.where(overlap >= 0.5, targets.labels[i][which], found[inside])
    return found


def box_tensor(boxes: Any) -> Tensor:
    """Return mmdet's boxes as a plain tensor ``(n, 4)``."""
    from mmdet.structures.bbox import get_box_tensor

    return get_box_tensor(boxes)
