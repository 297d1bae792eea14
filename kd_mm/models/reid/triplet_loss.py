"""Triplet loss on the hardest positive and negative of each image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.models.reid.metric_loss import MetricLoss, mean_where, pair_masks
from kd_mm.registry import MODELS


@MODELS.register_module()
class TripletLoss(MetricLoss):
    """Batch-hard triplet loss (Hermans et al. 2017, arXiv 1703.07737, equation 5).

    ``mean_a l(max_p ||x_a - x_p|| - min_n ||x_a - x_n||)`` over the images a of the batch, with Euclidean distances of
    the embeddings as they are, p of the same and n of another identity. ``l(d) = max(0, margin + d)``, or with
    ``margin=None`` the soft margin ``l(d) = ln(1 + exp(d))``. Images without a positive or a negative do not count.
    Distances are taken from differences, not from a Gram matrix, whose rounding hides short distances between long
    embeddings. The hardest pairs are found without gradient, without a loop over images or a wait for the device.

    Args:
        margin: In units of the distance; None for the soft margin.
        loss_weight: Factor of the loss.
    """

    def __init__(self, margin: float | None = 0.3, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.margin = margin

    def compute(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over the images, a scalar."""
        positive, negative = pair_masks(labels)
        with torch.no_grad():
            distance = torch.cdist(embedding, embedding, compute_mode="donot_use_mm_for_euclid_dist")
            farthest = distance.masked_fill(~positive, -1).argmax(dim=1)
            nearest = distance.masked_fill(~negative, torch.inf).argmin(dim=1)
        gap = _length(embedding - embedding[farthest]) - _length(embedding - embedding[nearest])
        losses = F.softplus(gap) if self.margin is None else F.relu(gap + self.margin)
        return mean_where(losses, positive.any(dim=1) & negative.any(dim=1))


def _length(vectors: Tensor) -> Tensor:
    """Return Euclidean lengths ``(B,)``; the gradient of length 0 is 0."""
    return torch.linalg.vector_norm(vectors, dim=1)
