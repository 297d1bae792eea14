"""Deformable convolution (Dai et al., ICCV 2017).

Offsets are `(B, 2 * G * kH * kW, Ho, Wo)` in pixels of the input for G deformable groups, y before x for each
kernel point.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kd_mm.ops._dtype import like_compiled_op
from kd_mm.ops.deform_kernel import Geometry, backward, forward


@like_compiled_op
def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution (`mmcv.ops.deform_conv2d`).

    Args:
        input: `(B, C, H, W)`.
        weight: `(O, C / group, kH, kW)`.
        offset: See the module's docstring.
        output: Result buffer `(B, O, Ho, Wo)`.
        columns: Scratch of the compiled operator, unused.
        ones: Scratch of the compiled operator, unused.
        kW: Kernel width.
        kH: Kernel height.
        dW: Stride along x.
        dH: Stride along y.
        padW: Zero padding along x in pixels.
        padH: Zero padding along y in pixels.
        dilationW: Dilation along x.
        dilationH: Dilation along y.
        group: Groups of channels.
        deformable_group: Groups of offsets.
        im2col_step: Images at a time in the compiled operator; it has no bearing on the result.
    """
    geometry = Geometry((kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    output.copy_(forward(input, weight, None, offset, None, geometry))


@like_compiled_op
def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Add the input's gradient to `gradInput` and write the offset's to `gradOffset`; see `deform_conv_forward`."""
    geometry = Geometry((kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    grads = backward(gradOutput, input, weight, offset, None, geometry)
    gradInput.add_(grads[0])
    gradOffset.copy_(grads[2])


@like_compiled_op
def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add `scale` times the weight's gradient to `gradWeight`; see `deform_conv_forward`."""
    geometry = Geometry((kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    # The weight's gradient does not depend on the weight, so zeros of its shape serve.
    grads = backward(gradOutput, input, torch.zeros_like(gradWeight), offset, None, geometry)
    gradWeight.add_(grads[1], alpha=scale)
