"""Pulls embeddings towards the centre of their identity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from torch import Tensor

from kd_mm.models.reid.metric_loss import MetricLoss
from kd_mm.registry import MODELS


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
