"""One answer out of the answers of several exits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

#: How exits are made one: the mean of their logits, of their probabilities, or the deepest alone.
ENSEMBLES = ("logit_mean", "prob_mean", "last")


def combine_exits(
    logits: Sequence[Tensor], ensemble: str = "logit_mean", weights: Sequence[float] | None = None
) -> Tensor:
    """Return logits ``(B, K)`` of the ensemble of exits, float32 at least.

    ``"logit_mean"``: ``sum_i w_i z_i``; ``"prob_mean"``: ``log sum_i w_i softmax(z_i)``, whose softmax is the mean of
    the probabilities; the weights are brought to a sum of 1. With exits of unlike scales one can outvote the others in
    the mean of logits, not so in that of probabilities.

    Args:
        logits: Of each exit ``(B, K)``, shallow to deep.
        ensemble: One of :data:`ENSEMBLES`.
        weights: w >= 0 of each exit, of these or of more: the first ones count; default: all equal.

    Raises:
        ValueError: An unknown ensemble.
    """
    if ensemble not in ENSEMBLES:
        raise ValueError(f"ensemble={ensemble!r} is unknown; choose one of {', '.join(map(repr, ENSEMBLES))}")
    full = [one.float() if one.dtype in (torch.float16, torch.bfloat16) else one for one in logits]
    if ensemble == "last" or len(full) == 1:
        return full[-1]
    stack = torch.stack(full)
    if ensemble == "prob_mean":
        stack = F.log_softmax(stack, dim=-1)
    share = stack.new_ones(len(full)) if weights is None else stack.new_tensor(list(weights)[: len(full)])
    share = (share / share.sum()).view(-1, *[1] * (stack.ndim - 1))
    return (share * stack).sum(dim=0) if ensemble == "logit_mean" else (stack + share.log()).logsumexp(dim=0)
