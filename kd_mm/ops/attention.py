"""Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021).

mmcv computes it in plain torch on the CPU and asks its extension on CUDA. Values are `(B, S, M, D)`: the pixels of
all levels in a row, M heads of D channels. Locations are `(B, Q, M, L, P, 2)`: x, y of P points on each of L levels,
0 to 1 across a level. Weights are `(B, Q, M, L, P)`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.ops._dtype import like_compiled_op, to_at_least_float32


def _attend(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples, zero outside a level: `(B, Q, M * D)`."""
    batch, _, heads, depth = value.shape
    queries = locations.shape[1]
    total = value.new_zeros(batch * heads, depth, queries)
    grid = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
    share = weights.transpose(1, 2).flatten(0, 1)
    for level, ((height, width), start) in enumerate(zip(shapes.tolist(), starts.tolist(), strict=True)):
        pixels = value[:, start : start + height * width].permute(0, 2, 3, 1)
        plane = pixels.reshape(batch * heads, depth, height, width)
        samples = F.grid_sample(plane, grid[:, :, level], mode="bilinear", padding_mode="zeros", align_corners=False)
        total = total + (samples * share[:, None, :, level]).sum(dim=-1)
    return total.view(batch, heads * depth, queries).transpose(1, 2).contiguous()


@like_compiled_op
def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Attend to sampled points (`mmcv.ops.MultiScaleDeformableAttention`).

    Args:
        value: `(B, S, M, D)`.
        value_spatial_shapes: `(L, 2)` int64 height and width of each level.
        value_level_start_index: `(L,)` int64 first row of each level in `value`.
        sampling_locations: `(B, Q, M, L, P, 2)`.
        attention_weights: `(B, Q, M, L, P)`.
        im2col_step: Images at a time in the compiled operator; it has no bearing on the result.

    Returns:
        `(B, Q, M * D)` in the dtype of `value`.
    """
    wide = [to_at_least_float32(tensor) for tensor in (value, sampling_locations, attention_weights)]
    return _attend(wide[0], value_spatial_shapes, value_level_start_index, wide[1], wide[2]).to(value.dtype)


@like_compiled_op
def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Add the gradients of `ms_deform_attn_forward` to the three buffers; arguments as there."""
    inputs = [to_at_least_float32(t).detach().requires_grad_() for t in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        result = _attend(inputs[0], value_spatial_shapes, value_level_start_index, inputs[1], inputs[2])
    grads = torch.autograd.grad(result, inputs, to_at_least_float32(grad_output))
    # A point exactly one pixel outside a level has no gradient upstream, but has one in grid_sample.
    size = value_spatial_shapes.flip(1)[:, None].to(inputs[1].dtype)
    pixels = inputs[1].detach() * size - 0.5
    inside = ((pixels > -1) & (pixels < size)).all(dim=-1, keepdim=True)
    grad_value.add_(grads[0])
    grad_sampling_loc.add_(torch.where(inside, grads[1], 0.0))
    grad_attn_weight.add_(grads[2])
