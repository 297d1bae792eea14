"""Deformable RoI pooling (Dai et al., Deformable Convolutional Networks, ICCV 2017, section 2.2).

RoIAlign with half-pixel shift whose bins are each moved by a learnt offset. Regions are `(K, 5)`: image index, x1,
y1, x2, y2 in pixels of the image. Offsets are `(K, 2, pH, pW)`, x before y, in shares of the region's size times
`gamma`; an empty tensor stands for none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.ops._dtype import like_compiled_op, to_at_least_float32
from kd_mm.ops.roi_utils import bin_points, inside, neighbours, same_grid


@dataclass(frozen=True)
class _Group:
    """Regions of one sampling grid of a x b points in each bin.

    Attributes:
        part: `(k,)` indices of the regions.
        image: `(k, 1, 1, 1, 1)` image of each region.
        y: `(k, pH, pW, a, 1)` coordinates of the points in pixels of the map.
        x: `(k, pH, pW, 1, b)`.
        size: `(k, 2)` width and height of the regions in pixels of the map.
    """

    part: Tensor
    image: Tensor
    y: Tensor
    x: Tensor
    size: Tensor


def _counts(step: Tensor, ratio: int) -> Tensor:
    """Points of a bin along one axis for bin sizes `(K,)`; the compiled operator rounds in 32 bits."""
    return torch.full_like(step, ratio).long() if ratio > 0 else step.float().ceil().long()


def _groups(
    rois: Tensor, offset: Tensor, bins: tuple[int, int], scale: float, ratio: int, gamma: float, channels: int
) -> Iterator[_Group]:
    """Sampling points of all regions that have any."""
    box = rois[:, 1:] * scale - 0.5
    size = box[:, 2:] - box[:, :2]
    x_step, y_step = size[:, 0] / bins[1], size[:, 1] / bins[0]
    rows, columns = _counts(y_step, ratio), _counts(x_step, ratio)
    for part, tall, wide in same_grid(rows, columns, channels * bins[0] * bins[1]):
        if tall <= 0 or wide <= 0:
            continue
        y = bin_points(box[part, 1], y_step[part], bins[0], tall)[:, :, None, :, None]
        x = bin_points(box[part, 0], x_step[part], bins[1], wide)[:, None, :, None, :]
        if offset.numel():
            shift = gamma * size[part][:, :, None, None] * offset[part]
            x, y = x + shift[:, 0, :, :, None, None], y + shift[:, 1, :, :, None, None]
        image = rois[part, 0].long()[:, None, None, None, None]
        yield _Group(part, image, y, x, size[part])


def _corners(group: _Group, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The pixels that each bin averages and their weights, both `(k * pH * pW, 4 * a * b)`.

    Pixels are rows of the map as `(B * H * W, C)`. The corners of a point are y low with x low, y low with x high,
    y high with x low, y high with x high.
    """
    index, weight = [], []
    for y_index, y_weight in neighbours(group.y, height):
        for x_index, x_weight in neighbours(group.x, width):
            index.append((group.image * height + y_index) * width + x_index)
            weight.append(y_weight * x_weight)
    count = group.y.shape[3] * group.x.shape[4]
    return torch.stack(index, dim=3).view(-1, 4 * count), torch.stack(weight, dim=3).view(-1, 4 * count) / count


@like_compiled_op
def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Average the samples of each moved bin (`mmcv.ops.deform_roi_pool`).

    Args:
        input: `(B, C, H, W)`.
        rois: `(K, 5)`, see the module's docstring.
        offset: `(K, 2, pooled_height, pooled_width)`, or empty.
        output: Result buffer `(K, C, pooled_height, pooled_width)`; a region without size gives 0.
        pooled_height: Bins along y.
        pooled_width: Bins along x.
        spatial_scale: Pixels of the map for one pixel of the image.
        sampling_ratio: Points of a bin along each axis; 0 takes about one for each pixel of the map.
        gamma: Factor of the offsets.
    """
    features = to_at_least_float32(input)
    regions, moves = (to_at_least_float32(tensor).to(features.dtype) for tensor in (rois, offset))
    bins, channels = (pooled_height, pooled_width), features.shape[1]
    rows = features.permute(0, 2, 3, 1).reshape(-1, channels)
    output.zero_()
    for group in _groups(regions, moves, bins, spatial_scale, sampling_ratio, gamma, channels):
        index, weight = _corners(group, *features.shape[2:])
        values = F.embedding_bag(index, rows, per_sample_weights=weight, mode="sum")
        output[group.part] = values.view(-1, *bins, channels).permute(0, 3, 1, 2).to(output.dtype)


def _offset_slopes(group: _Group, products: Tensor, height: int, width: int) -> Tensor:
    """Slope of each bin's average along x and y: `(k, 2, pH, pW)`.

    The compiled operator takes the slope in the cell between the neighbouring pixels of the point as it is, not of
    the point pushed into the map. So a point before the first pixel of an axis extrapolates the slope along the
    other one, and a point from the last pixel of an axis on, where both neighbours coincide, gives none there.

    Args:
        group: The sampling points.
        products: Output gradient times pixel value, `(k * pH * pW, 4 * a * b)` in the order of `_corners`.
        height: Height of the map.
        width: Width of the map.
    """
    (y_low, _), (y_high, _) = neighbours(group.y, height)
    (x_low, _), (x_high, _) = neighbours(group.x, width)
    shape = torch.broadcast_shapes(group.y.shape, group.x.shape)
    near, right, below, far = products.view(*shape[:3], 4, *shape[3:]).unbind(3)
    along_x = (far - below) * (group.y - y_low) + (right - near) * (y_high - group.y)
    along_y = (far - right) * (group.x - x_low) + (below - near) * (x_high - group.x)
    valid = inside(group.y, height) & inside(group.x, width)
    both = torch.stack([along_x * valid, along_y * valid], dim=1).sum(dim=(4, 5))
    return both / (shape[3] * shape[4])


@like_compiled_op
def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Add the gradients of `deform_roi_pool_forward` to `grad_input` and, unless it is empty, `grad_offset`."""
    features = to_at_least_float32(input)
    grad, regions, moves = (to_at_least_float32(tensor).to(features.dtype) for tensor in (grad_output, rois, offset))
    bins, channels = (pooled_height, pooled_width), features.shape[1]
    batch, _, height, width = features.shape
    rows = features.permute(0, 2, 3, 1).reshape(-1, channels).detach().requires_grad_()
    total = torch.zeros_like(rows)
    for group in _groups(regions, moves, bins, spatial_scale, sampling_ratio, gamma, channels):
        index, weight = _corners(group, height, width)
        # The weight's gradient of a bag is the product of the output's gradient and each of its rows.
        leaves = [rows, weight.requires_grad_()] if offset.numel() else [rows]
        with torch.enable_grad():
            values = F.embedding_bag(index, rows, per_sample_weights=weight, mode="sum")
        grads = torch.autograd.grad(values, leaves, grad[group.part].permute(0, 2, 3, 1).reshape(-1, channels))
        total += grads[0]
        if offset.numel():
            slopes = gamma * group.size[:, :, None, None] * _offset_slopes(group, grads[1], height, width)
            grad_offset[group.part] = grad_offset[group.part] + slopes.to(grad_offset.dtype)
    grad_input.add_(total.view(batch, height, width, channels).permute(0, 3, 1, 2))
