"""The base of losses that compare the embeddings of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MetricLoss(nn.Module):
    """Embeddings and identities in, one scalar out; never in half precision.

    A subclass computes the unweighted loss in :meth:`compute`. With several processes each compares its own batch.

    Args:
        loss_weight: Factor of the loss.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted loss, a scalar.

        Args:
            embedding: ``(B, D)``, of any scale.
            labels: Identity of each, ``(B,)`` integers.
        """
        with torch.autocast(embedding.device.type, enabled=False):
            dtype = torch.promote_types(embedding.dtype, torch.float32)
            return self.loss_weight * self.compute(embedding.to(dtype), labels)

    def compute(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return the unweighted loss of embeddings in float32 or float64."""
        raise NotImplementedError


def pair_masks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return which pairs are positive (same identity, another image) and which negative, ``(B, B)`` booleans each."""
    same = labels[:, None] == labels[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return same & ~itself, ~same


def mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values ``(B,)`` where the mask is true; 0 where it never is."""
    return torch.where(mask, values, torch.zeros_like(values)).sum() / mask.sum().clamp(min=1)
