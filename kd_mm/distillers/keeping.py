"""What of a teacher's feature maps is kept while the student runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from kd_mm.losses import Loss
from kd_mm.losses.functional import full_precision


def features_read(maps: Mapping[int, Tensor], readers: Collection[Loss], num_stages: int) -> dict[int, Tensor]:
    """Return the maps that some loss reads; of a map that is read for its spatial mean alone just that mean.

    Args:
        maps: Feature maps ``(B, C, H, W)`` by stage.
        readers: The losses in force that read this teacher.
        num_stages: Number of matched stages.

    Returns:
        By stage ``(B, C, H, W)``, or the mean ``(B, C, 1, 1)``, at least float32, where every loss that reads the stage
        says so (``reads_means``). The maps themselves can then be freed before the student needs the memory.
    """
    kept: dict[int, Tensor] = {}
    for i in sorted(maps):
        mine = [loss for loss in readers if "teacher.features" in loss.needs() and i in loss.stage_numbers(num_stages)]
        if mine:
            means = all(getattr(loss, "reads_means", False) for loss in mine)
            kept[i] = full_precision(maps[i]).mean(dim=(2, 3), keepdim=True) if means else maps[i]
    return kept
