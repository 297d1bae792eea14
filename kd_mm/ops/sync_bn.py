"""The local parts of mmcv's synchronised batch normalisation; its wrapper does the communication.

Inputs are `(B, C, S)` with S the pixels of a map; statistics are `(C,)` float32.
"""

from __future__ import annotations

from torch import Tensor

from kd_mm.ops._dtype import like_compiled_op, to_at_least_float32


@like_compiled_op
def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Write the mean of each channel to `mean`."""
    mean.copy_(to_at_least_float32(input).mean(dim=(0, 2)))


@like_compiled_op
def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Write the mean squared distance of each channel from `mean` to `var`."""
    var.copy_((to_at_least_float32(input) - mean[:, None]).square().mean(dim=(0, 2)))


@like_compiled_op
def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm: Tensor | None,
    std: Tensor | None,
    output: Tensor,
    eps: float,
    momentum: float | Tensor,
    group_size: int,
) -> None:
    """Normalise, and update the running statistics (`mmcv.ops.SyncBatchNorm`).

    Args:
        input: `(B, C, S)`.
        mean: Mean over all processes.
        var: Biased variance over all processes.
        weight: Scale of each channel, or None.
        bias: Shift of each channel, or None.
        running_mean: Updated in place, or None.
        running_var: Updated in place with the unbiased variance, or None.
        norm: Buffer `(B, C, S)` float32 for the normalised input, or None.
        std: Buffer `(C,)` for the standard deviation, or None.
        output: Result buffer `(B, C, S)`.
        eps: Added to the variance.
        momentum: Share of the new statistics in the running ones.
        group_size: Number of processes.
    """
    deviation = (var + eps).sqrt()
    normalised = (to_at_least_float32(input) - mean[:, None]) / deviation[:, None]
    if norm is not None:
        norm.copy_(normalised)
    if std is not None:
        std.copy_(deviation)
    if weight is not None and bias is not None:
        normalised = normalised * weight[:, None] + bias[:, None]
    output.copy_(normalised)
    if running_mean is not None and running_var is not None:
        count = input.shape[0] * input.shape[2] * group_size
        unbiased = var * count / (count - 1) if count > 1 else var
        running_mean.copy_(momentum * mean + (1 - momentum) * running_mean)
        running_var.copy_(momentum * unbiased + (1 - momentum) * running_var)


@like_compiled_op
def sync_bn_backward_param(grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor) -> None:
    """Write the gradients of scale and shift, `(C,)` each."""
    grad = to_at_least_float32(grad_output)
    grad_weight.copy_((grad * norm).sum(dim=(0, 2)))
    grad_bias.copy_(grad.sum(dim=(0, 2)))


@like_compiled_op
def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """Write the input's gradient `(B, C, S)`, from the gradients of scale and shift over all processes."""
    count = grad_output.shape[0] * grad_output.shape[2]
    shared = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_(weight[:, None] * (to_at_least_float32(grad_output) - shared) / std[:, None])
