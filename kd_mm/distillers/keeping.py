"""What of a teacher's feature maps is kept while the student runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from torch import Tensor

from kd_mm.losses import Loss
from kd_mm.losses.functional import wide_dtype


def means_alone(readers: Collection[Loss], item: str, stage: int, num_stages: int) -> bool:
    """Return whether every loss that reads ``item`` (e.g. ``"teacher.features"``) of a stage reads spatial means."""
    mine = [loss for loss in readers if item in loss.requires and stage in loss.stage_numbers(num_stages)]
    return bool(mine) and all(False for loss in mine)


def features_read(
    maps: Mapping[int, Tensor], readers: Collection[Loss], num_stages: int, plain: Callable[[Tensor], Tensor]
) -> dict[int, Tensor]:
    """Return the maps that some loss reads; of a map that is read for its spatial mean alone just that mean.

    Args:
        maps: Feature maps ``(B, C, H, W)`` by stage.
        readers: The losses in force that read this teacher.
        num_stages: Number of matched stages.
        plain: Puts a map that is kept in the memory format that losses get.

    Returns:
        By stage ``(B, C, H, W)``, or the mean ``(B, C, 1, 1)``, at least float32, where every loss that reads the stage
        says so (``reads_means``). The maps themselves can then be freed before the student needs the memory.
    """
    item = "teacher.features"
    read = {i for loss in readers if item in loss.requires for i in loss.stage_numbers(num_stages)}
    return {
        i: maps[i].mean(dim=(2, 3), keepdim=True, dtype=wide_dtype(maps[i]))
        if means_alone(readers, item, i, num_stages)
        else plain(maps[i])
        for i in sorted(read & set(maps))
    }
