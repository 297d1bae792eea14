"""Detectors that run several branches over a batch in training and one in inference (TridentNet)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kd_mm.tasks.prediction_readers import region_tap

_REGIONS = frozenset(region_tap(cascade) for cascade in (False, True))
_MAPS = ("backbone", "neck")


def trident_test_branch(model: nn.Module) -> int | None:
    """Return which branch a detector of several branches keeps in inference, ``None`` where it has no branches.

    Raises:
        ValueError: It keeps all of them, so that an image has several maps.
    """
    branch: int | None = getattr(getattr(model, "backbone", None), "test_branch_idx", None)
    if branch is not None and branch < 0:
        raise ValueError(
            f"{type(model).__name__} runs all of its branches in inference (test_branch_idx={branch}), so no single "
            "map of it belongs to an image: set test_branch_idx of backbone and roi_head to one branch, e.g. 1"
        )
    return branch


def keep_deployed_branch(model: nn.Module, records: Mapping[str, Tensor], images: int) -> dict[str, Tensor]:
    """Return the records of a detector in training, one map an image.

    TridentNet (Li et al. 2019) runs three branches of shared weights over each batch while it trains, one after the
    other along the first dimension, and one of them in inference. Of maps the branch that inference keeps is returned,
    of sampled regions ``(R, 5)`` the index of the image instead of that of the view. Distilling the branch that is
    deployed, and comparing the regions of all, is our reading.

    Args:
        model: The detector.
        records: Tap text to tensor.
        images: B, images of the batch.

    Raises:
        ValueError: See :func:`trident_test_branch`.
    """
    branch = trident_test_branch(model)
    if branch is None:
        return dict(records)
    return {tap: _inference_branch(tap, tensor, branch, images) for tap, tensor in records.items()}


def _inference_branch(tap: str, tensor: Tensor, branch: int, images: int) -> Tensor:
    if tap in _REGIONS:
        return torch.cat([tensor[:, :1] % images, tensor[:, 1:]], dim=1)
    if tap.startswith(_MAPS) and len(tensor) > images:
        return tensor[branch * images : (branch + 1) * images]
    return tensor
