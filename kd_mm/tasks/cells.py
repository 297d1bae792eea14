"""Classes by cell: the targets and the measure of exits that classify the cells of a grid."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

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
