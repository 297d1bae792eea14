"""Losses on a network's own logits: KD, DIST, DKD, and KD in the form of a detector's head."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.base import Loss, LossContext, choice
from kd_mm.losses.functional import class_divergence, full_precision, kl_divergence, standardized
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS


class LogitsLoss(Loss):
    """Base of the losses in which a student's logits follow a teacher's.

    The teacher's logits come as constants, or with a gradient to an adapter of the recipe
    (:class:`kd_mm.losses.LearningSimplifier`), never to the teacher.

    Args:
        standardize: Whether both sides are brought to mean 0 and standard deviation 1 over the classes of each sample
            first, so that the student need not match the teacher's scale: logit standardisation (Sun et al., CVPR 2024,
            arXiv 2403.01427). Default: False.
        multilabel: Whether classes are independent sigmoids. These cannot be standardised: the level of a sigmoid's
            logit decides whether its class is present. ``None``: as the task's stage logits are. Default: False.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For standardised sigmoids; on construction of the Distiller, for a dense head's logits
            ``(B, N, K)``.
    """

    def __init__(self, standardize: bool = False, multilabel: bool | None = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.standardize, self.multilabel = standardize, multilabel
        self._check_multilabel()

    def _check_multilabel(self) -> None:
        if self.standardize and self.multilabel:
            raise ValueError(
                f"{type(self).__name__}: standardize=True needs classes that exclude each other (softmax); the level "
                "of a sigmoid's logit decides whether its class is present, so leave it out"
            )

    def setup(self, context: LossContext) -> None:
        """Read the task's kind of classes and check the shape of the student's own logits.

        Raises:
            ValueError: If they are a dense head's ``(B, N, K)``.
        """
        if self.multilabel is None:
            self.multilabel = context.multilabel
            self._check_multilabel()
        if "student.logits" in self.requires and len(context.logits_shape) == 3 and not self.multilabel:
            raise ValueError(
                f"{type(self).__name__} compares one row of logits an image or region, this detector predicts at "
                f"{context.logits_shape[1]} positions: use kd_mm.DetKDLoss (recipe kd)"
                + (", one for each teacher (teacher=...)" if len(self.teacher_names) > 1 else "")
            )

    def compared(self, logits: Tensor) -> Tensor:
        """Return logits ``(..., K)`` as they are compared, at least float32."""
        return standardized(logits) if self.standardize else full_precision(logits)


@MODELS.register_module()
class KDLoss(LogitsLoss):
    """Compare the student's softened logits with the teacher's: knowledge distillation (Hinton et al. 2015).

    ``KD_T = T^2 / B * sum KL(softmax(z_t / T) || softmax(z_s / T))``: sum over classes, mean over the batch.

    Args:
        temperature: T > 0, dimensionless; commonly 4 on CIFAR, 1 on ImageNet. Default: 4.
        multilabel: Use independent sigmoids instead of a softmax; then the mean over classes. Default: False.
        **kwargs: See :class:`LogitsLoss`.
    """

    requires = frozenset({"student.logits", "teacher.logits"})

    def __init__(self, temperature: float = 4.0, multilabel: bool = False, **kwargs: Any) -> None:
        super().__init__(multilabel=multilabel, **kwargs)
        self.temperature = temperature

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the divergence under the name ``final``."""
        logits, target = self.compared(student.logits), self.compared(teacher.logits)
        return {"final": class_divergence(logits, target, self.temperature, self.multilabel)}


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
        **kwargs: See :class:`kd_mm.losses.logits.LogitsLoss`.
    """

    requires = frozenset({"student.logits", "teacher.logits"})

    def __init__(self, temperature: float = 1.0, beta: float = 1.0, gamma: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature, self.beta, self.gamma = temperature, beta, gamma

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return both weighted terms."""
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
        **kwargs: See :class:`kd_mm.losses.logits.LogitsLoss`.

    Raises:
        ValueError: On construction of the Distiller, for a dense head; on use, for targets without a class for each row
            of logits.
    """

    requires = frozenset({"student.logits", "teacher.logits", "student.targets"})

    def __init__(self, temperature: float = 4.0, alpha: float = 1.0, beta: float = 8.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature, self.alpha, self.beta = temperature, alpha, beta

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return both weighted terms."""
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


@MODELS.register_module()
class DetKDLoss(Loss):
    """Compare a detector's class logits with the teacher's, as Hinton et al. (2015), in the form of its head.

    Two-stage: ``KD_T`` over the K + 1 softmax logits ``(R, K + 1)`` of the RoI head, mean over the student's sampled
    regions, which the teacher classifies on its own features (the arrangement of mdistiller's detection code).

    Dense heads: class maps ``(B, N, K)`` on equal grids,
    ``T^2 / sum_n w_n * sum_n w_n sum_k KL(sigmoid(z_t / T) || sigmoid(z_s / T))`` with ``w_n`` the teacher's largest
    class probability at that location, which is our reading. A head with a channel more than classes (SSD, background
    last) uses the softmax KL. With ``weighting="quality"`` the divergences are weighted where the two networks differ,
    ``max_k |p_t - p_s|^gamma`` (a constant), and divided by ``sum_n w_n``, at least 1: the quality focal weight of GFL
    (Li et al. 2020, arXiv 2006.04388) between two predictions, our reading.

    Args:
        temperature: T > 0, dimensionless. Default: 1 (our reading for detection).
        weighting: Weights of a dense head's positions: ``"teacher"`` or ``"quality"``. Default: ``"teacher"``.
        gamma: Exponent of ``"quality"``. Default: 1.
        optional: Leave the loss out, with a line in the log, where the heads of student and teacher cannot be compared.
            Default: False, which is an error then.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.
    """

    requires = frozenset({"student.logits", "teacher.logits"})

    def __init__(
        self,
        temperature: float = 1.0,
        weighting: str = "teacher",
        gamma: float = 1.0,
        optional: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.temperature, self.gamma, self.optional = temperature, gamma, optional
        self.weighting = choice("weighting", weighting, ("teacher", "quality"))
        self.num_classes = 0

    def setup(self, context: LossContext) -> None:
        """Store the number of classes, by which a head with background is recognised."""
        self.num_classes = context.num_classes

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the divergence under the name ``regions`` or ``grid``."""
        if student.logits.ndim == 2:
            return {"regions": kl_divergence(student.logits, teacher.logits, self.temperature)}
        return {"grid": self._dense(full_precision(student.logits), full_precision(teacher.logits))}

    def _dense(self, student: Tensor, teacher: Tensor) -> Tensor:
        z_s, z_t = student / self.temperature, teacher / self.temperature
        if 0 < self.num_classes == student.shape[-1] - 1:
            probabilities = [z.detach().softmax(dim=-1)[..., :-1] for z in (student, teacher)]
            log_q, log_p = F.log_softmax(z_s, dim=-1), F.log_softmax(z_t, dim=-1)
            divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)
        else:
            probabilities, p = [z.detach().sigmoid() for z in (student, teacher)], z_t.sigmoid()
            cross = F.binary_cross_entropy_with_logits(z_s, p, reduction="none")
            divergence = (cross - F.binary_cross_entropy_with_logits(z_t, p, reduction="none")).sum(dim=-1)
        weight = probabilities[1].amax(dim=-1)
        scale = weight.sum().clamp(min=torch.finfo(weight.dtype).eps)
        if self.weighting == "quality":
            weight = (probabilities[1] - probabilities[0]).abs().amax(dim=-1).pow(self.gamma)
            scale = scale.clamp(min=1)
        return self.temperature**2 * (weight * divergence).sum() / scale
