"""The batch norm between a pooled embedding and its identity classifier."""

from typing import Any

from torch import nn


class BNNeck(nn.BatchNorm1d):
    """Batch norm without shift over embeddings ``(B, D)`` (Luo et al. 2019, arXiv 1903.07071, section 3.6).

    Without a shift the hyperplanes of a classifier without bias all pass through the origin, around which the
    normalised embeddings lie, so that cosine distance suits them.

    Args:
        num_features: D.
        **kwargs: As for torch's ``BatchNorm1d`` (``eps``, ``momentum``).
    """

    def __init__(self, num_features: int, **kwargs: Any) -> None:
        super().__init__(num_features, **kwargs)
        self.register_parameter("bias", None)

    def reset_parameters(self) -> None:
        """Set the scale to 1, running mean to 0 and running variance to 1."""
        self.reset_running_stats()
        nn.init.ones_(self.weight)
