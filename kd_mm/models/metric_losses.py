"""Losses on the embeddings of a batch: batch-hard triplets, centres of identities, circle loss."""

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from torch import Tensor, nn

from kd_mm.registry import MODELS


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


@MODELS.register_module()
class TripletLoss(MetricLoss):
    """Batch-hard triplet loss (Hermans et al. 2017, arXiv 1703.07737, equation 5).

    ``mean_a l(max_p ||x_a - x_p|| - min_n ||x_a - x_n||)`` over the images a of the batch, with Euclidean distances of
    the embeddings as they are, p of the same and n of another identity. ``l(d) = max(0, margin + d)``, or with
    ``margin=None`` the soft margin ``l(d) = ln(1 + exp(d))``. Images without a positive or a negative do not count.
    Distances are computed from differences, not from a Gram matrix, whose rounding hides short distances between long
    embeddings. The hardest pairs are found without gradient, without a loop over images or a wait for the device.

    Args:
        margin: In units of the distance; None for the soft margin.
        loss_weight: Factor of the loss.

    Raises:
        ValueError: For a ``margin`` below 0.
    """

    def __init__(self, margin: float | None = 0.3, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        if margin is not None and margin < 0:
            raise ValueError(f"TripletLoss: margin={margin}: give a distance of 0 or more, or None")
        self.margin = margin

    def compute(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over the images, a scalar."""
        positive, negative = _pair_masks(labels)
        with torch.no_grad():
            distance = torch.cdist(embedding, embedding, compute_mode="donot_use_mm_for_euclid_dist")
            farthest = distance.masked_fill(~positive, -1).argmax(dim=1)
            nearest = distance.masked_fill(~negative, torch.inf).argmin(dim=1)
        # The gradient of a length of 0 is 0.
        far, near = ((embedding - embedding[other]).norm(dim=1) for other in (farthest, nearest))
        gap = far - near
        losses = F.softplus(gap) if self.margin is None else F.relu(gap + self.margin)
        return _mean_where(losses, positive.any(dim=1) & negative.any(dim=1))


@MODELS.register_module()
class CenterLoss(MetricLoss):
    """``1/2 mean_b ||x_b - c_{y_b}||^2`` with one centre an identity (Wen et al., ECCV 2016, equation 2).

    The centres are no parameters: after each training step's loss they move by the paper's rule (equation 4),
    ``c_j <- c_j - alpha * sum_{b: y_b = j} (c_j - x_b) / (1 + n_j)``, n_j images of the identity in the batches of all
    processes. They start at 0 and stay in the checkpoint. The paper sums over the batch, here it is a mean; the
    bag of tricks (Luo et al. 2019) leaves out the 1/2, so that its weight 0.0005 is 0.001 here.

    Args:
        num_classes: K, identities.
        in_channels: D.
        alpha: Rate of the centres, in [0, 1].
        loss_weight: Factor of the loss.
    """

    centers: Tensor

    def __init__(self, num_classes: int, in_channels: int, alpha: float = 0.5, loss_weight: float = 0.001) -> None:
        super().__init__(loss_weight)
        self.alpha = alpha
        self.register_buffer("centers", torch.zeros(num_classes, in_channels))

    def compute(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over the images, a scalar; in training the centres move."""
        loss = (embedding - self.centers[labels]).square().sum(dim=1).mean() / 2
        if self.training and torch.is_grad_enabled():
            self.move(embedding.detach(), labels)
        return loss

    @torch.no_grad()
    def move(self, embedding: Tensor, labels: Tensor) -> None:
        """Move the centres of the identities of a batch."""
        # A product with the one-hot matrix: adding up by index is not deterministic on CUDA.
        chosen = F.one_hot(labels, len(self.centers)).to(self.centers.dtype)
        counts, sums = chosen.sum(dim=0), chosen.T @ embedding.to(self.centers.dtype)
        all_reduce(counts)
        all_reduce(sums)
        step = (counts[:, None] * self.centers - sums) / (1 + counts[:, None])
        self.centers -= self.alpha * step


@MODELS.register_module()
class CircleLoss(MetricLoss):
    """Circle loss with pair-wise labels (Sun et al., CVPR 2020, arXiv 2002.10857, equations 4 to 8).

    For each image of the batch, with cosine similarities s_p to its positives and s_n to its negatives::

        ln(1 + sum_n exp(scale * a_n * (s_n - m)) * sum_p exp(-scale * a_p * (s_p - 1 + m)))
        a_p = max(0, 1 + m - s_p),  a_n = max(0, s_n + m)

    then the mean over the images that have both. The weights a carry no gradient.

    Args:
        margin: m, in cosine.
        scale: gamma, dimensionless.
        loss_weight: Factor of the loss.
    """

    def __init__(self, margin: float = 0.25, scale: float = 128.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.margin, self.scale = margin, scale

    def compute(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over the images, a scalar."""
        positive, negative = _pair_masks(labels)
        unit = F.normalize(embedding, dim=1)
        similarity, m = unit @ unit.T, self.margin
        weight_p = (1 + m - similarity).detach().clamp(min=0)
        weight_n = (similarity + m).detach().clamp(min=0)
        lowest = torch.finfo(similarity.dtype).min / 4
        logits_p = (-self.scale * weight_p * (similarity - 1 + m)).masked_fill(~positive, lowest)
        logits_n = (self.scale * weight_n * (similarity - m)).masked_fill(~negative, lowest)
        losses = F.softplus(torch.logsumexp(logits_p, dim=1) + torch.logsumexp(logits_n, dim=1))
        return _mean_where(losses, positive.any(dim=1) & negative.any(dim=1))


def _pair_masks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return which pairs are positive (same identity, another image) and which negative, ``(B, B)`` booleans each."""
    same = labels[:, None] == labels[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return same & ~itself, ~same


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values ``(B,)`` where the mask is true; 0 where it never is."""
    return torch.where(mask, values, torch.zeros_like(values)).sum() / mask.sum().clamp(min=1)
