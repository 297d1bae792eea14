"""Pair loss that weighs each similarity by how far it is from where it should be."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.models.reid.metric_loss import MetricLoss, mean_where, pair_masks
from kd_mm.registry import MODELS


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
        positive, negative = pair_masks(labels)
        unit = F.normalize(embedding, dim=1)
        similarity, m = unit @ unit.T, self.margin
        weight_p = (1 + m - similarity).detach().clamp(min=0)
        weight_n = (similarity + m).detach().clamp(min=0)
        lowest = torch.finfo(similarity.dtype).min / 4
        logits_p = (-self.scale * weight_p * (similarity - 1 + m)).masked_fill(~positive, lowest)
        logits_n = (self.scale * weight_n * (similarity - m)).masked_fill(~negative, lowest)
        losses = F.softplus(torch.logsumexp(logits_p, dim=1) + torch.logsumexp(logits_n, dim=1))
        return mean_where(losses, positive.any(dim=1) & negative.any(dim=1))
