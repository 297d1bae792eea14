"""Deformable RoI pooling (Dai et al., Deformable Convolutional Networks, ICCV 2017, section 2.2).

RoIAlign with half-pixel shift whose bins are each moved by a learnt offset. Regions are `(K, 5)`: image index, x1,
y1, x2, y2 in pixels of the image. Offsets are `(K, 2, pH, pW)`, x before y, in shares of the region's size times
`gamma`; an empty tensor stands for none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kd_mm.compat.pooling_groups import same_grid
from kd_mm.compat.precision import as_compiled, widen
from kd_mm.compat.sampling import bin_points, inside, neighbours


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


@as_compiled
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
    features = widen(input)
    regions, moves = (widen(tensor).to(features.dtype) for tensor in (rois, offset))
    bins, channels = (pooled_height, pooled_width), features.shape[1]
    height, width = features.shape[2:]
    pixels = features.permute(0, 2, 3, 1)
    output.zero_()
    for group in _groups(regions, moves, bins, spatial_scale, sampling_ratio, gamma, channels):
        total = torch.zeros((), dtype=features.dtype, device=features.device)
        for y_index, y_weight in neighbours(group.y, height):
            for x_index, x_weight in neighbours(group.x, width):
                corner = pixels[group.image, y_index, x_index]
                weight = (y_weight * x_weight).expand(corner.shape[:5])
                total = total + torch.einsum("kijabc,kijab->kcij", corner, weight)
        output[group.part] = (total / (group.y.shape[3] * group.x.shape[4])).to(output.dtype)


def _offset_slopes(group: _Group, answers: list[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Slope of each bin's weighted sum along x and y: `(k, pH, pW)` each.

    The compiled operator takes the slope in the cell between the neighbouring pixels of the point as it is, not of
    the point pushed into the map. So a point before the first pixel of an axis extrapolates the slope along the
    other one, and a point from the last pixel of an axis on, where both neighbours coincide, gives none there.

    Args:
        group: The sampling points.
        answers: Output gradient times pixel value, `(k, pH, pW, a, b)` for each corner: y low with x low, y low with
            x high, y high with x low, y high with x high.
        height: Height of the map.
        width: Width of the map.
    """
    (y_low, _), (y_high, _) = neighbours(group.y, height)
    (x_low, _), (x_high, _) = neighbours(group.x, width)
    near, right, below, far = answers
    along_x = (far - below) * (group.y - y_low) + (right - near) * (y_high - group.y)
    along_y = (far - right) * (group.x - x_low) + (below - near) * (x_high - group.x)
    valid = inside(group.y, height) & inside(group.x, width)
    return (along_x * valid).sum(dim=(3, 4)), (along_y * valid).sum(dim=(3, 4))


@as_compiled
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
    features, grad = widen(input), widen(grad_output)
    regions, moves = (widen(tensor).to(features.dtype) for tensor in (rois, offset))
    bins, channels = (pooled_height, pooled_width), features.shape[1]
    batch, _, height, width = features.shape
    pixels = features.permute(0, 2, 3, 1)
    total = features.new_zeros(batch * height * width, channels)
    for group in _groups(regions, moves, bins, spatial_scale, sampling_ratio, gamma, channels):
        share = grad[group.part].permute(0, 2, 3, 1) / (group.y.shape[3] * group.x.shape[4])
        answers = []
        for y_index, y_weight in neighbours(group.y, height):
            for x_index, x_weight in neighbours(group.x, width):
                place = (group.image * height + y_index) * width + x_index
                sent = (y_weight * x_weight).expand(place.shape)[..., None] * share[:, :, :, None, None]
                total.index_add_(0, place.flatten(), sent.reshape(-1, channels))
                if offset.numel():
                    corner = pixels[group.image, y_index, x_index]
                    answers.append(torch.einsum("kijabc,kijc->kijab", corner, share))
        if answers:
            slopes = torch.stack(_offset_slopes(group, answers, height, width), dim=1)
            scaled = gamma * group.size[:, :, None, None] * slopes
            grad_offset[group.part] = grad_offset[group.part] + scaled.to(grad_offset.dtype)
    grad_input.add_(total.view(batch, height, width, channels).permute(0, 3, 1, 2))
