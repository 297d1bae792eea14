"""What plain (Dai et al., ICCV 2017) and modulated (Zhu et al., CVPR 2019) deformable convolution share.

Offsets are `(B, 2 * G * kH * kW, Ho, Wo)` in pixels of the input for G deformable groups, y before x for each
kernel point; masks are `(B, G * kH * kW, Ho, Wo)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kd_mm.ops._dtype import to_at_least_float32


@dataclass(frozen=True)
class Geometry:
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
            pixel = base + shift[:, :, :, :, axis]
            touched.append((pixel > -1) & (pixel < size))
        return (touched[0] & touched[1]).flatten(2, 3)


def _places(offset: Tensor) -> Tensor:
    """Wide offsets whose NaN lie outside of every input, as upstream's comparisons have it.

    torchvision's CPU kernel would read memory that is not its own.
    """
    return torch.nan_to_num(to_at_least_float32(offset), nan=1e9, posinf=torch.inf, neginf=-torch.inf)


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, offset: Tensor, mask: Tensor | None, geometry: Geometry
) -> Tensor:
    """Convolve `(B, C, H, W)` with torchvision's operator: `(B, O, Ho, Wo)` in float32 or float64.

    Args:
        input: `(B, C, H, W)`.
        weight: `(O, C / groups, kH, kW)`.
        bias: `(O,)`, or None.
        offset: See the module's docstring.
        mask: See the module's docstring; None for all ones.
        geometry: Kernel, stride, padding, dilation, groups.
    """
    dense = to_at_least_float32(input)
    empty = dense.new_zeros(len(dense), 0, 1, 1)
    result: Tensor = torch.ops.torchvision.deform_conv2d(
        dense,
        to_at_least_float32(weight),
        _places(offset),
        empty if mask is None else to_at_least_float32(mask),
        dense.new_zeros(len(weight)) if bias is None else to_at_least_float32(bias),
        *geometry.arguments(mask is not None),
    )
    return result


def backward(
    grad_output: Tensor, input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, geometry: Geometry
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of input, weight, offset, mask, bias for that of the output; arguments as in `forward`."""
    dense, shift = to_at_least_float32(input), _places(offset)
    empty = dense.new_zeros(len(dense), 0, 1, 1)
    grads = torch.ops.torchvision._deform_conv2d_backward(
        to_at_least_float32(grad_output).contiguous(),
        dense,
        to_at_least_float32(weight),
        shift,
        empty if mask is None else to_at_least_float32(mask),
        dense.new_zeros(len(weight)),
        *geometry.arguments(mask is not None),
    )
    # A sample exactly one pixel outside has no gradient upstream, but has one in torchvision. Offsets start at zero,
    # so with padding 1 the complete border sits there.
    inside = geometry.inside(shift.contiguous(), *dense.shape[2:])
    pairs = grads[2].view(*inside.shape[:3], 2, *inside.shape[3:])
    grad_offset = torch.where(inside[:, :, :, None], pairs, 0.0).view_as(shift)
    return grads[0], grads[1], grad_offset, grads[3], grads[4]
