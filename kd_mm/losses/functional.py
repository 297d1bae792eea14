"""Arithmetic that several losses share, as pure functions; computed in at least float32."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def wide_dtype(x: Tensor) -> torch.dtype:
    """Return float32 for float16 and bfloat16, else the dtype of ``x``."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def full_precision(x: Tensor) -> Tensor:
    """Return ``x`` in float32 if it is float16 or bfloat16, else unchanged (float64 stays float64)."""
    return x.to(wide_dtype(x))


def standardized(logits: Tensor) -> Tensor:
    """Standardise logits over the classes: ``(z - mean) / (std + 1e-7)`` (Sun et al. 2024, arXiv 2403.01427).

    The deviation is the unbiased one (divided by K - 1), as in the public code; a row of equal logits becomes 0.

    Args:
        logits: ``(..., K)``, K >= 2.
    """
    logits = full_precision(logits)
    std, mean = torch.std_mean(logits, dim=-1, keepdim=True)
    return (logits - mean) / (std + 1e-7)


def kl_divergence(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, counts: Tensor | None = None
) -> Tensor:
    """Return the softened KL divergence of the student from the teacher (Hinton et al. 2015).

    ``T^2 / B * sum_b sum_k p log(p / q)`` with ``p = softmax(teacher / T)``, ``q = softmax(student / T)``: sum over the
    classes, mean over the batch, times temperature squared, which preserves the size of the gradient.

    Args:
        student_logits: ``(..., B, K)``; leading dimensions (e.g. stages) are compared one by one.
        teacher_logits: ``(..., B, K)``; detach it where the target must not move.
        temperature: T > 0, dimensionless. Default: 1.
        counts: ``(..., B)``, a factor of each row. Default: 1 each.

    Returns:
        Shape ``(...)``; a scalar for ``(B, K)``.
    """
    log_q = F.log_softmax(softened(student_logits, temperature), dim=-1)
    log_p = F.log_softmax(softened(teacher_logits, temperature), dim=-1)
    # The factor and its sign go to the side that needs no gradient: two operators less in the backward pass.
    shares = log_p.exp() * (-(temperature**2) / max(log_q.shape[-2], 1))
    if counts is not None:
        shares = shares * counts.unsqueeze(-1)
    return (shares * (log_q - log_p)).sum(dim=(-2, -1))


def softened(logits: Tensor, temperature: float) -> Tensor:
    """Return ``logits / temperature``, at least float32."""
    logits = full_precision(logits)
    return logits if temperature == 1 else logits / temperature


def softmax_divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return ``KL(softmax(teacher) || softmax(student))`` of each row ``(...)`` of logits ``(..., K)``."""
    log_q, log_p = (full_precision(logits).log_softmax(dim=-1) for logits in (student_logits, teacher_logits))
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)


def sigmoid_divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return ``KL(sigmoid(teacher) || sigmoid(student))`` of each logit.

    Computed as binary cross-entropy from logits minus the target's own entropy, which is exact and stable.
    """
    p = teacher_logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(student_logits, p, reduction="none")
    return cross - F.binary_cross_entropy_with_logits(teacher_logits, p, reduction="none")


def bernoulli_divergence(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """Return :func:`sigmoid_divergence` of ``logits / T``: mean over batch and classes, times T squared.

    Args:
        student_logits: ``(..., B, K)``; leading dimensions (e.g. stages) are compared one by one.
        teacher_logits: ``(..., B, K)``.
        temperature: T > 0, dimensionless. Default: 1.
        mask: ``(B, K)``, 0 where a class does not count in an image (ignored or difficult objects only), else 1.

    Returns:
        Shape ``(...)``; a scalar for ``(B, K)``.
    """
    divergence = sigmoid_divergence(softened(student_logits, temperature), softened(teacher_logits, temperature))
    if mask is not None:
        divergence = divergence * mask
    return divergence.mean(dim=(-2, -1)) * temperature**2


def class_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    multilabel: bool | None,
    mask: Tensor | None = None,
) -> Tensor:
    """Return :func:`bernoulli_divergence` for multi-label logits, else :func:`kl_divergence`."""
    if multilabel:
        return bernoulli_divergence(student_logits, teacher_logits, temperature, mask)
    return kl_divergence(student_logits, teacher_logits, temperature)


def confidence_weights(logits: Sequence[Tensor], targets: Any, average: bool = False) -> Tensor:
    """Return CA-MKD's weights ``(1 - softmax_m(CE(z_m, y))) / (M - 1)`` of M sets of logits.

    The weights of a sample add up to 1 (Zhang et al., ICASSP 2022, arXiv 2201.00007).

    Args:
        logits: ``(B, K)`` of each teacher; M >= 2.
        targets: Class indices ``(B,)`` or soft labels ``(B, K)``.
        average: Whether the errors are averaged over the batch first. Default: False.

    Returns:
        Shape ``(M, B)``.

    Raises:
        ValueError: If there is not one label for each row of logits.
    """
    if not isinstance(targets, Tensor) or len(targets) != len(logits[0]):
        raise ValueError("weights='ca_mkd' need one label for each row of logits, as in classification; use 'mean'")
    errors = torch.stack([F.cross_entropy(full_precision(z), targets, reduction="none") for z in logits])
    if average:
        errors = errors.mean(dim=1, keepdim=True).expand_as(errors)
    return (1 - errors.softmax(dim=0)) / (len(logits) - 1)


def channel_deviations(feature: Tensor) -> Tensor:
    """Return the standard deviation of each channel over the positions: ``sqrt(variance + 1e-5)``.

    The variance is the unbiased one (divided by H W - 1); that of one position is 0. 1e-5 is WKD's.

    Args:
        feature: ``(B, C, H, W)``; computed in at least float32.

    Returns:
        ``(B, C)``.
    """
    correction = min(1, feature.shape[2] * feature.shape[3] - 1)
    return (full_precision(feature).var(dim=(2, 3), correction=correction) + 1e-5).sqrt()


def adaptive_average(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Return ``F.adaptive_avg_pool2d`` of a map ``(B, C, H, W)``: ``(B, C, *size)``.

    Under ``torch.use_deterministic_algorithms`` (``randomness=dict(deterministic=True)``) torch has no gradient of it
    on GPUs and raises; there it is computed as two matrix products.
    """
    if feature.is_cuda and feature.requires_grad and torch.are_deterministic_algorithms_enabled():
        return average_by_products(feature, size)
    return F.adaptive_avg_pool2d(feature, (size[0], size[1]))


def average_by_products(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Return the same as :func:`adaptive_average`: ``A_h F A_w^T``, each row of a matrix the mean over one window."""
    matrices = []
    for length, count in zip(feature.shape[2:], size, strict=True):
        number, index = torch.arange(count)[:, None], torch.arange(length)
        inside = (index >= number * length // count) & (index < -(-(number + 1) * length // count))
        matrices.append((inside.double() / inside.sum(dim=1, keepdim=True)).to(feature))
    return matrices[0] @ feature @ matrices[1].T


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps at the smaller of their sizes: the larger one is pooled (adaptive average).

    Args:
        student: ``(B, C_s, H_s, W_s)``.
        teacher: ``(B, C_t, H_t, W_t)``.
    """
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    if student.shape[2:] != size:
        student = adaptive_average(student, size)
    if teacher.shape[2:] != size:
        teacher = adaptive_average(teacher, size)
    return student, teacher


def standardized_channels(feature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a map with mean 0 and deviation 1 by channel over batch and space, with its deviations and means.

    Args:
        feature: ``(B, C, H, W)``, at least float32; 1e-6 is added to the (unbiased) deviation.

    Returns:
        The map, and deviations and means ``(1, C, 1, 1)``.
    """
    # A single value has no spread; the unbiased estimate of it would be 0 / 0.
    values = feature.numel() // feature.shape[1]
    std, mean = torch.std_mean(feature, dim=(0, 2, 3), correction=min(1, values - 1), keepdim=True)
    return (feature - mean) / (std + 1e-6), std, mean
