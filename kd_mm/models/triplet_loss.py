"""Batch-hard triplet loss on the embeddings of a batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_mm.registry import MODELS


@MODELS.register_module()
class TripletLoss(nn.Module):
    """Batch-hard triplet loss (Hermans et al. 2017, arXiv 1703.07737, equation 5).

    ``mean_a l(max_p ||x_a - x_p|| - min_n ||x_a - x_n||)`` over the images a of the batch, with Euclidean distances of
    the embeddings as they are, p of the same and n of another identity. ``l(d) = max(0, margin + d)``, or with
    ``margin=None`` the soft margin ``l(d) = ln(1 + exp(d))``. Images without a positive or a negative do not count.
    Distances are computed from differences, not from a Gram matrix, whose rounding hides short distances between long
    embeddings. The hardest pairs are found without gradient, without a loop over images or a wait for the device. With
    several processes each compares its own batch.

    Args:
        margin: In units of the distance; None for the soft margin.
        loss_weight: Factor of the loss.

    Raises:
        ValueError: For a ``margin`` below 0.
    """

    def __init__(self, margin: float | None = 0.3, loss_weight: float = 1.0) -> None:
        super().__init__()
        if margin is not None and margin < 0:
            raise ValueError(f"TripletLoss: margin={margin}: give a distance of 0 or more, or None")
        self.margin, self.loss_weight = margin, loss_weight

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted loss, a scalar, computed in float32 (float64 for float64) under autocast, too.

        Args:
            embedding: ``(B, D)``, of any scale.
            labels: Identity of each, ``(B,)`` integers.
        """
        with torch.autocast(embedding.device.type, enabled=False):
            dtype = torch.promote_types(embedding.dtype, torch.float32)
            return self.loss_weight * self.compute(embedding.to(dtype), labels)

    def compute(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return the unweighted mean over the images, a scalar, of embeddings in float32 or float64."""
        same = labels[:, None] == labels[None, :]
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        positive, negative = same & ~itself, ~same
        with torch.no_grad():
            distance = torch.cdist(embedding, embedding, compute_mode="donot_use_mm_for_euclid_dist")
            farthest = distance.masked_fill(~positive, -1).argmax(dim=1)
            nearest = distance.masked_fill(~negative, torch.inf).argmin(dim=1)
        # The gradient of a length of 0 is 0.
        far, near = ((embedding - embedding[other]).norm(dim=1) for other in (farthest, nearest))
        gap = far - near
        losses = F.softplus(gap) if self.margin is None else F.relu(gap + self.margin)
        counted = positive.any(dim=1) & negative.any(dim=1)
        return torch.where(counted, losses, torch.zeros_like(losses)).sum() / counted.sum().clamp(min=1)
