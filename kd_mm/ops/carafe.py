"""CARAFE, content-aware upsampling (Wang et al., ICCV 2019).

Features are `(B, C, H, W)`, masks `(B, G * k * k, sH, sW)` for kernel size k, G groups of channels and scale s.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.ops._dtype import like_compiled_op, to_at_least_float32


def _patches(features: Tensor, kernel_size: int, group_size: int) -> Tensor:
    """Neighbourhood of each pixel: `(B, G, C / G, k * k, H, W)`, zero outside the map."""
    batch, channels, height, width = features.shape
    rows = F.unfold(features, kernel_size, padding=(kernel_size - 1) // 2)
    return rows.view(batch, group_size, channels // group_size, kernel_size**2, height, width)


def _tiles(tensor: Tensor, groups: int, scale: int) -> Tensor:
    """View `(B, G * X, sH, sW)` as `(B, G, X, H, s, W, s)`: the s x s results of each source pixel together."""
    batch, channels, height, width = tensor.shape
    return tensor.reshape(batch, groups, channels // groups, height // scale, scale, width // scale, scale)


@like_compiled_op
def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Write the reassembled features to `output` `(B, C, sH, sW)` (`mmcv.ops.carafe_naive`)."""
    patches = _patches(to_at_least_float32(features), kernel_size, group_size)
    kernels = _tiles(to_at_least_float32(masks).to(patches.dtype), group_size, scale_factor)
    output.copy_(torch.einsum("ngckhw,ngkhawb->ngchawb", patches, kernels).reshape(output.shape))


@like_compiled_op
def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Add the gradients of `carafe_naive_forward` by features and masks to `bottom_grad` and `mask_grad`."""
    patches = _patches(to_at_least_float32(features), kernel_size, group_size)
    kernels = _tiles(to_at_least_float32(masks).to(patches.dtype), group_size, scale_factor)
    grad = _tiles(to_at_least_float32(top_grad).to(patches.dtype), group_size, scale_factor)
    mask_grad.add_(torch.einsum("ngckhw,ngchawb->ngkhawb", patches, grad).reshape(masks.shape))
    rows = torch.einsum("ngkhawb,ngchawb->ngckhw", kernels, grad)
    batch, channels, height, width = features.shape
    flat = rows.reshape(batch, channels * kernel_size**2, height * width)
    bottom_grad.add_(F.fold(flat, (height, width), kernel_size, padding=(kernel_size - 1) // 2))


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the reassembled features to `output` (`mmcv.ops.carafe`).

    `rfeatures` `(B, C, H, W)` keeps the features for the backward pass; the other `r` buffers are scratch of the
    compiled operator, unused.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Add the gradients of `carafe_forward` to `bottom_grad` and `mask_grad`; `rfeatures` as left there."""
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor)
