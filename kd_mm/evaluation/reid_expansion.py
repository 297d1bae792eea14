"""Average query expansion."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from kd_mm.evaluation.reid_distances import Distances
from kd_mm.evaluation.reid_inputs import Features, check_metric, read_features
from kd_mm.evaluation.rerank_neighbours import smallest


def average_query_expansion(
    query_features: Features, gallery_features: Features, k: int = 5, metric: str = "cosine"
) -> Features:
    """Replace each query by the mean of itself and its k nearest gallery features (Chum et al., ICCV 2007).

    Person ids are not looked at, so junk, which nobody is looking for, must be left out of the gallery before. For
    ``"cosine"`` features are L2-normalised before they are averaged, and the mean is again.

    Args:
        query_features: ``(Q, D)``, an array or a tensor.
        gallery_features: ``(G, D)``.
        k: Gallery features to average with, at most G.
        metric: ``"cosine"`` or ``"euclidean"``.

    Returns:
        ``(Q, D)``, an array or a tensor as the queries were, float32, or float64 where given.

    Raises:
        ValueError: The features do not fit, or ``k`` is not from 1 to G.
    """
    check_metric(metric)
    query, gallery = read_features(query_features, gallery_features, metric)
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= len(gallery):
        raise ValueError(f"k={k}: give the number of gallery features to average with, from 1 to {len(gallery)}")
    parts = []
    for start, block in Distances(query, gallery, metric).blocks():
        nearest = torch.from_numpy(smallest(block, int(k))[0]).to(gallery.device)
        found, own = gallery[nearest], query[start : start + len(block), None]
        group = torch.cat([own, found], dim=1)
        if metric == "cosine":
            group = normalize(group, dim=2)
        parts.append(group.mean(dim=1))
    expanded = torch.cat(parts)
    expanded = normalize(expanded, dim=1) if metric == "cosine" else expanded
    return expanded.to(query_features.device) if isinstance(query_features, Tensor) else expanded.cpu().numpy()
