"""Predictions compared by correlation (DIST)."""

from typing import Any

from torch import Tensor

from kd_mm.losses.kd import LogitsLoss
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS

_EPS = 1e-8


@MODELS.register_module()
class DISTLoss(LogitsLoss):
    """Correlate the student's probabilities with the teacher's, within a sample and within a class: DIST.

    DIST (Huang et al., NeurIPS 2022, arXiv 2205.10536), with ``p = softmax(z / T)`` and Pearson's r:

    * ``inter``: ``T^2 (1 - mean_b r(p_s[b, :], p_t[b, :]))``, over the classes of each sample;
    * ``intra``: ``T^2 (1 - mean_k r(p_s[:, k], p_t[:, k]))``, over the samples of the batch for each class.

    ``L = beta * inter + gamma * intra``. Public code: ``hunto/DIST_KD``, MMRazor's ``DISTLoss``. ``intra`` needs
    batches of more than one sample; where nothing varies r counts as 0.

    Args:
        temperature: T > 0, dimensionless. Default: 1.
        beta: Weight of ``inter``. Default: 1.
        gamma: Weight of ``intra``. Default: 1.
        **kwargs: See :class:`kd_mm.losses.kd.LogitsLoss`.
    """

    requires = frozenset({"student.logits", "teacher.logits"})

    def __init__(self, temperature: float = 1.0, beta: float = 1.0, gamma: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature, self.beta, self.gamma = temperature, beta, gamma

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        inter, intra = relation_distances(
            self.compared(student.logits), self.compared(teacher.logits), self.temperature
        )
        return {"inter": self.beta * inter, "intra": self.gamma * intra}


def relation_distances(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return one minus the mean correlation within a sample and within a class, both times T squared.

    Args:
        student: Logits ``(..., B, K)``; leading dimensions (e.g. stages) are compared one by one.
        teacher: ``(..., B, K)``.
        temperature: T > 0.

    Returns:
        Two tensors of shape ``(...)``; scalars for ``(B, K)``.
    """
    p_s, p_t = (student / temperature).softmax(dim=-1), (teacher / temperature).softmax(dim=-1)
    inter, intra = (1 - pearson(p_s, p_t, dim).mean(dim=-1) for dim in (-1, -2))
    return temperature**2 * inter, temperature**2 * intra


def pearson(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Return Pearson's correlation along a dimension, which it removes; 0 where nothing varies."""
    a, b = a - a.mean(dim=dim, keepdim=True), b - b.mean(dim=dim, keepdim=True)
    return (a * b).sum(dim=dim) / (a.norm(dim=dim) * b.norm(dim=dim) + _EPS)
