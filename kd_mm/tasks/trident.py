"""Detectors that run several branches over a batch in training and one in inference (TridentNet)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kd_mm.losses.region_output import REGION_TAPS
from kd_mm.stages.tap import child


def trident_test_branch(model: nn.Module) -> int | None:
    """Return which branch a detector of several branches keeps in inference, ``None`` where it has no branches.

    Raises:
        ValueError: It keeps all of them, so that an image has several maps.
    """
    branch: int | None = getattr(child(model, "backbone"), "test_branch_idx", None)
    if branch is not None and branch < 0:
        raise ValueError(
            f"{type(model).__name__} runs all of its branches in inference (test_branch_idx={branch}), so no single "
            "map of it belongs to an image: set test_branch_idx of backbone and roi_head to one branch, e.g. 1"
        )
    return branch


def keep_deployed_branch(model: nn.Module, records: Mapping[str, Tensor], images: int) -> dict[str, Tensor]:
    """Return the records of a detector in training, one map for each of ``images`` images.

    TridentNet (Li et al. 2019) trains three branches of shared weights, one after the other along the first dimension,
    and keeps one of them in inference. Of maps that branch is returned, of sampled regions ``(R, 5)`` the index of the
    image instead of that of the view. Distilling the deployed branch and comparing the regions of all is our reading.

    Raises:
        ValueError: See :func:`trident_test_branch`.
    """
    branch, found = trident_test_branch(model), dict(records)
    if branch is None:
        return found
    for tap, tensor in records.items():
        if tap in REGION_TAPS:
            found[tap] = torch.cat([tensor[:, :1] % images, tensor[:, 1:]], dim=1)
        elif tap.startswith(("backbone", "neck")) and len(tensor) > images:
            found[tap] = tensor[branch * images : (branch + 1) * images]
    return found
