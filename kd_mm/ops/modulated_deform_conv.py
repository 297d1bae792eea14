"""Modulated deformable convolution (Zhu et al., CVPR 2019).

Offsets are `(B, 2 * G * kH * kW, Ho, Wo)` in pixels of the input for G deformable groups, y before x for each
kernel point; masks are `(B, G * kH * kW, Ho, Wo)`.
"""

from __future__ import annotations

from torch import Tensor

from kd_mm.ops._dtype import like_compiled_op
from kd_mm.ops.deform_kernel import Geometry, backward, forward


def _as_read(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    """Read offsets or masks as the compiled operator does, which steps through memory by the output's size.

    Of maps larger than the output the first values in each image's memory are read. mmdet's DyHead passes such
    maps, and its published weights were trained so.

    Args:
        tensor: `(B, X, h, w)`.
        size: Height and width of the output.

    Returns:
        `(B, X, *size)`.

    Raises:
        ValueError: The maps are smaller than the output.
    """
    batch, channels, height, width = tensor.shape
    if (height, width) == size:
        return tensor
    count = channels * size[0] * size[1]
    if height * width < size[0] * size[1]:
        raise ValueError(
            f"modulated_deform_conv: offset or mask is {height}x{width}, smaller than the output of "
            f"{size[0]}x{size[1]}; compute it on a map of the output's size."
        )
    return tensor.reshape(batch, -1)[:, :count].reshape(batch, channels, *size)


def _write_as_read(buffer: Tensor, grad: Tensor) -> None:
    """Write a gradient `(B, X, Ho, Wo)` to the part of `buffer` `(B, X, h, w)` that `_as_read` reads."""
    flat = buffer.reshape(len(buffer), -1)
    flat[:, : grad[0].numel()] = grad.flatten(1).to(buffer.dtype)
    buffer.copy_(flat.view_as(buffer))


@like_compiled_op
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
    geometry = Geometry(
        (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    )
    size = (output.shape[2], output.shape[3])
    shift, share = _as_read(offset, size), _as_read(mask, size)
    output.copy_(forward(input, weight, bias if with_bias else None, shift, share, geometry))


@like_compiled_op
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
    geometry = Geometry(
        (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    )
    size = (grad_output.shape[2], grad_output.shape[3])
    grads = backward(grad_output, input, weight, _as_read(offset, size), _as_read(mask, size), geometry)
    grad_input.add_(grads[0])
    grad_weight.add_(grads[1])
    _write_as_read(grad_offset, grads[2])
    _write_as_read(grad_mask, grads[3])
    if with_bias:
        grad_bias.add_(grads[4])
