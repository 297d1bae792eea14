"""Deformable convolution, plain (Dai et al., ICCV 2017) and modulated (Zhu et al., CVPR 2019).

Offsets are `(B, 2 * G * kH * kW, Ho, Wo)` in pixels of the input for G deformable groups, y before x for each
kernel point; masks are `(B, G * kH * kW, Ho, Wo)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kd_mm.compat.precision import as_compiled, widen


@dataclass(frozen=True)
class _Geometry:
    """Kernel size, stride, padding and dilation as (y, x), groups of channels, groups of offsets."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    deform_groups: int

    def arguments(self, modulated: bool) -> tuple[int, ...]:
        """Arguments of torchvision's operator that follow the tensors."""
        return (*self.stride, *self.padding, *self.dilation, self.groups, self.deform_groups, modulated)

    def inside(self, offset: Tensor, height: int, width: int) -> Tensor:
        """Which samples touch the input: `(B, G, kH * kW, Ho, Wo)` bool; one pixel outside is outside."""
        batch, _, rows, columns = offset.shape
        shift = offset.view(batch, self.deform_groups, *self.kernel, 2, rows, columns)
        touched = []
        for axis, size in ((0, height), (1, width)):
            start = torch.arange(shift.shape[5 + axis], device=offset.device) * self.stride[axis] - self.padding[axis]
            point = torch.arange(self.kernel[axis], device=offset.device) * self.dilation[axis]
            base = point[:, None] + start
            base = base[:, None, :, None] if axis == 0 else base[:, None, :]
            place = base + shift[:, :, :, :, axis]
            touched.append((place > -1) & (place < size))
        return (touched[0] & touched[1]).flatten(2, 3)


def _forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, offset: Tensor, mask: Tensor | None, geometry: _Geometry
) -> Tensor:
    dense = widen(input)
    empty = dense.new_zeros(len(dense), 0, 1, 1)
    result: Tensor = torch.ops.torchvision.deform_conv2d(
        dense,
        widen(weight),
        widen(offset),
        empty if mask is None else widen(mask),
        dense.new_zeros(len(weight)) if bias is None else widen(bias),
        *geometry.arguments(mask is not None),
    )
    return result


def _backward(
    grad_output: Tensor, input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, geometry: _Geometry
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of input, weight, offset, mask, bias."""
    dense, shift = widen(input), widen(offset)
    empty = dense.new_zeros(len(dense), 0, 1, 1)
    grads = torch.ops.torchvision._deform_conv2d_backward(
        widen(grad_output).contiguous(),
        dense,
        widen(weight),
        shift,
        empty if mask is None else widen(mask),
        dense.new_zeros(len(weight)),
        *geometry.arguments(mask is not None),
    )
    # A sample exactly one pixel outside has no gradient upstream, but has one in torchvision. Offsets start at zero,
    # so with padding 1 the whole border sits there.
    inside = geometry.inside(shift.contiguous(), *dense.shape[2:])
    pairs = grads[2].view(*inside.shape[:3], 2, *inside.shape[3:])
    grad_offset = torch.where(inside[:, :, :, None], pairs, 0.0).view_as(shift)
    return grads[0], grads[1], grad_offset, grads[3], grads[4]


@as_compiled
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
    geometry = _Geometry((kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    output.copy_(_forward(input, weight, None, offset, None, geometry))


@as_compiled
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
    geometry = _Geometry((kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    grads = _backward(gradOutput, input, weight, offset, None, geometry)
    gradInput.add_(grads[0])
    gradOffset.copy_(grads[2])


@as_compiled
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
    geometry = _Geometry((kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    # The weight's gradient does not depend on the weight, whose place only needs the right shape.
    grads = _backward(gradOutput, input, torch.zeros_like(gradWeight), offset, None, geometry)
    gradWeight.add_(grads[1], alpha=scale)


@as_compiled
def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Modulated deformable convolution (`mmcv.ops.modulated_deform_conv2d`).

    Args:
        input: `(B, C, H, W)`.
        weight: `(O, C / group, kernel_h, kernel_w)`.
        bias: `(O,)`; ignored unless `with_bias`.
        ones: Scratch of the compiled operator, unused.
        offset: See the module's docstring.
        mask: See the module's docstring.
        output: Result buffer `(B, O, Ho, Wo)`.
        columns: Scratch of the compiled operator, unused.
        kernel_h: Kernel height.
        kernel_w: Kernel width.
        stride_h: Stride along y.
        stride_w: Stride along x.
        pad_h: Zero padding along y in pixels.
        pad_w: Zero padding along x in pixels.
        dilation_h: Dilation along y.
        dilation_w: Dilation along x.
        group: Groups of channels.
        deformable_group: Groups of offsets.
        with_bias: Add the bias.
    """
    geometry = _Geometry(
        (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    )
    output.copy_(_forward(input, weight, bias if with_bias else None, offset, mask, geometry))


@as_compiled
def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Add the gradients of input, weight and bias to their buffers and write those of offset and mask.

    Arguments as in `modulated_deform_conv_forward`.
    """
    geometry = _Geometry(
        (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    )
    grads = _backward(grad_output, input, weight, offset, mask, geometry)
    grad_input.add_(grads[0])
    grad_weight.add_(grads[1])
    grad_offset.copy_(grads[2])
    grad_mask.copy_(grads[3])
    if with_bias:
        grad_bias.add_(grads[4])
