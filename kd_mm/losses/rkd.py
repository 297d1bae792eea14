"""Relations between the embeddings of a batch: RKD (Park et al., CVPR 2019, arXiv 1904.05068)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.cosine import EmbeddingLoss
from kd_mm.registry import MODELS


class _RelationLoss(EmbeddingLoss):
    """Base: compare the relations of both sides' embeddings by smooth L1 (threshold 1).

    Args:
        normalize: Whether each embedding is divided by its length first, as in MMRazor; the paper's code and
            RepDistiller do not. Default: False.
        **kwargs: See :class:`kd_mm.losses.cosine.EmbeddingLoss`.
    """

    def __init__(self, normalize: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.normalize = normalize

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.normalize:
            student, teacher = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
        return F.smooth_l1_loss(self.relate(student), self.relate(teacher))

    def relate(self, embedding: Tensor) -> Tensor:
        """Return the relations within a batch ``(B, D)``."""
        raise NotImplementedError


@MODELS.register_module()
class RKDDistanceLoss(_RelationLoss):
    """Compare the distances within a batch, RKD-D (equations 5 to 8 of the paper).

    Smooth L1 (threshold 1) between the Euclidean distances of all pairs, each side divided by its mean distance; mean
    over ``B^2`` pairs, the B of an image with itself included, as in the public code (``lenscloth/RKD``, RepDistiller).
    """

    def relate(self, embedding: Tensor) -> Tensor:
        """Return the distances ``(B, B)``, divided by the mean of those that are not 0."""
        distance = torch.cdist(embedding, embedding, compute_mode="donot_use_mm_for_euclid_dist")
        count = (distance > 0).sum().clamp(min=1)
        return distance * count / distance.sum().clamp(min=torch.finfo(distance.dtype).tiny)


@MODELS.register_module()
class RKDAngleLoss(_RelationLoss):
    """Compare the angles within a batch, RKD-A (equations 9 and 10 of the paper).

    Smooth L1 (threshold 1) between the cosines of the angles that any two images make at any third; mean over ``B^3``
    triples, degenerate ones included, as in the public code. Memory grows with ``B^2 D + B^3``.
    """

    def relate(self, embedding: Tensor) -> Tensor:
        """Return the cosines ``(B, B, B)``, the image at the angle first."""
        towards = F.normalize(embedding[None] - embedding[:, None], dim=2)
        return towards @ towards.transpose(1, 2)
