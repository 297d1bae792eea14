"""The arithmetic that several losses share, as pure functions; never in half precision."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def wide_dtype(x: Tensor) -> torch.dtype:
    """Return float32 for float16 and bfloat16, else the type of ``x``."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def full_precision(x: Tensor) -> Tensor:
    """Return ``x`` in float32 if it is float16 or bfloat16, else as it is (float64 stays float64)."""
    return x.to(wide_dtype(x))


def standardized(logits: Tensor) -> Tensor:
    """Return ``(z - mean) / (std + 1e-7)`` over the last dimension: mean 0, deviation 1 (Sun et al. 2024, 2403.01427).

    The deviation is the unbiased one (divided by K - 1), as in the public code; a row of equal logits becomes 0.

    Args:
        logits: ``(..., K)``, K >= 2.
    """
    logits = full_precision(logits)
    std, mean = torch.std_mean(logits, dim=-1, keepdim=True)
    return (logits - mean) / (std + 1e-7)


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Softened KL divergence of the student from the teacher, with the gradient-preserving factor (Hinton et al. 2015).

    ``T^2 / B * sum_b sum_k p log(p / q)`` with ``p = softmax(teacher / T)``, ``q = softmax(student / T)``: summed over
    classes, mean over the batch, times temperature squared.

    Args:
        student_logits: ``(B, K)``.
        teacher_logits: ``(B, K)``; detach it where the target must not move.
        temperature: T > 0, dimensionless.

    Returns:
        Scalar.
    """
    log_q = F.log_softmax(full_precision(student_logits) / temperature, dim=-1)
    log_p = F.log_softmax(full_precision(teacher_logits) / temperature, dim=-1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


def bernoulli_divergence(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """KL divergence between independent sigmoids (multi-label responses): mean over batch and classes, times T^2.

    Computed as binary cross-entropy from logits minus the target's own entropy, which is exact and stable.

    Args:
        student_logits: ``(B, K)``.
        teacher_logits: ``(B, K)``.
        temperature: T > 0, dimensionless.
        mask: ``(B, K)``, 0 where a class is left out of the image (ignored or difficult objects only), else 1.

    Returns:
        Scalar.
    """
    student = full_precision(student_logits) / temperature
    teacher = full_precision(teacher_logits) / temperature
    p = teacher.sigmoid()
    cross = F.binary_cross_entropy_with_logits(student, p, reduction="none")
    entropy = F.binary_cross_entropy_with_logits(teacher, p, reduction="none")
    divergence = cross - entropy
    if mask is not None:
        divergence = divergence * mask
    return divergence.mean() * temperature**2


def softened(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, multilabel: bool, mask: Tensor | None = None
) -> Tensor:
    """Return the divergence that suits the response: softmax over classes, or one sigmoid a class under ``mask``."""
    if multilabel:
        return bernoulli_divergence(student_logits, teacher_logits, temperature, mask)
    return kl_divergence(student_logits, teacher_logits, temperature)


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
    height, width = (_windows(length, count).to(feature) for length, count in zip(feature.shape[2:], size, strict=True))
    return height @ feature @ width.T


def _windows(length: int, count: int) -> Tensor:
    """Return ``(count, length)``: row i is a mean over places ``floor(i L / n)`` to ``ceil((i + 1) L / n)``."""
    number, place = torch.arange(count)[:, None], torch.arange(length)
    inside = (place >= number * length // count) & (place < -(-(number + 1) * length // count))
    return inside.double() / inside.sum(dim=1, keepdim=True)


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


def confidence_weights(logits: Sequence[Tensor], targets: Any, average: bool = False) -> Tensor:
    """Return CA-MKD's weights ``(1 - softmax_m(CE(z_m, y))) / (M - 1)`` of M sets of logits, ``(M, B)``.

    They add up to 1 for each sample (Zhang et al., ICASSP 2022, arXiv 2201.00007).

    Args:
        logits: ``(B, K)`` for each teacher; M >= 2.
        targets: Class indices ``(B,)`` or soft labels ``(B, K)``.
        average: Whether the errors are averaged over the batch first. Default: False.

    Raises:
        ValueError: If there is not one label for each row of logits.
    """
    if not isinstance(targets, Tensor) or len(targets) != len(logits[0]):
        raise ValueError("weights='ca_mkd' need one label for each row of logits, as in classification; use 'mean'")
    errors = torch.stack([F.cross_entropy(full_precision(z), targets, reduction="none") for z in logits])
    if average:
        errors = errors.mean(dim=1, keepdim=True).expand_as(errors)
    return (1 - errors.softmax(dim=0)) / (len(logits) - 1)
