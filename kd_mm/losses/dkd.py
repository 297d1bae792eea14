"""Decoupled knowledge distillation (DKD)."""

from typing import Any

import torch
from torch import Tensor

from kd_mm.losses.functional import kl_divergence
from kd_mm.losses.kd import LogitsLoss
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS


@MODELS.register_module()
class DKDLoss(LogitsLoss):
    """Weight the teacher's confidence in the labelled class and its ranking of the others separately: DKD.

    DKD (Zhao et al., CVPR 2022, arXiv 2203.08679): ``L = alpha * TCKD + beta * NCKD`` with

    * ``target`` (TCKD): ``T^2 / B sum_b KL((p_y, 1 - p_y) || (q_y, 1 - q_y))`` of ``p = softmax(z_t / T)``,
      ``q = softmax(z_s / T)`` at the labelled class y;
    * ``others`` (NCKD): ``T^2 / B sum_b KL(softmax(z_t[others] / T) || softmax(z_s[others] / T))`` over the classes
      without y.

    Public code: mdistiller, MMRazor's ``DKDLoss``. A soft label (mixup, cutmix) counts as its largest class: our
    reading. In a two-stage detector a row of logits is a region that the student samples, as in mdistiller.

    Args:
        temperature: T > 0, dimensionless. Default: 4.
        alpha: Weight of ``target``. Default: 1.
        beta: Weight of ``others``. Default: 8.
        **kwargs: See :class:`kd_mm.losses.kd.LogitsLoss`.

    Raises:
        ValueError: On construction of the Distiller, for a dense head; on use, for targets without a class for each row
            of logits.
    """

    requires = frozenset({"student.logits", "teacher.logits", "student.targets"})

    def __init__(self, temperature: float = 4.0, alpha: float = 1.0, beta: float = 8.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature, self.alpha, self.beta = temperature, alpha, beta

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        labels = labelled_classes(student.targets, len(student.logits))
        logits, targets = self.compared(student.logits), self.compared(teacher.logits)
        target, others = decoupled_divergence(logits, targets, labels, self.temperature)
        return {"target": self.alpha * target, "others": self.beta * others}


def decoupled_divergence(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the divergence at the labelled class and that of the other classes, both times T squared.

    Args:
        student: ``(..., B, K)``, K >= 2; leading dimensions (e.g. stages) are compared one by one.
        teacher: ``(..., B, K)``.
        labels: ``(B,)``, class indices.
        temperature: T > 0.

    Returns:
        Two tensors of shape ``(...)``; scalars for ``(B, K)``.
    """
    classes = torch.arange(student.shape[-1] - 1, device=student.device).expand(len(labels), -1)
    others = classes + (classes >= labels[:, None])
    binary, rest = [], []
    for logits in (student / temperature, teacher / temperature):
        rest.append(logits.gather(-1, others.expand(*logits.shape[:-2], -1, -1)))
        labelled = logits.gather(-1, labels[:, None].expand(*logits.shape[:-2], -1, -1))
        binary.append(torch.cat([labelled, rest[-1].logsumexp(dim=-1, keepdim=True)], dim=-1))
    scale = temperature**2
    return scale * kl_divergence(binary[0], binary[1]), scale * kl_divergence(rest[0], rest[1])


def labelled_classes(targets: Any, rows: int) -> Tensor:
    """Return the class indices ``(rows,)`` of an image classifier's labels or of a detector's sampled regions.

    Raises:
        ValueError: If there is not one class for each of the ``rows`` rows of logits.
    """
    labels = targets if isinstance(targets, Tensor) else targets.sampled_labels()
    if labels is None or len(labels) != rows:
        raise ValueError(f"the loss needs one labelled class for each of the {rows} rows of logits")
    return labels.argmax(dim=1) if labels.ndim == 2 else labels
