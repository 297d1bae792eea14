"""RoIAlign (He et al., Mask R-CNN, ICCV 2017): pooling of bilinear samples on a regular grid in every bin.

The average comes from torchvision. The maximum, which torchvision lacks, is computed here from the same samples.
Regions are `(K, 5)`: image index in the batch, then x1, y1, x2, y2 in pixels of the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kd_mm.ops._dtype import like_compiled_op, to_at_least_float32
from kd_mm.ops.roi_utils import bin_points, neighbours, same_grid

_MAX = 0


def _readable(rois: Tensor, sampling_ratio: int, aligned: bool) -> Tensor:
    """Bring regions into the range where torchvision's CPU kernel reads no memory but its own.

    Regions with a NaN, which a diverging detector proposes, move off the map and pool to 0. Those of negative size
    get no size where an adaptive grid has no points in them in either case.
    """
    lost = rois.isnan().any(dim=1, keepdim=True)
    rois = torch.cat([rois[:, :1].nan_to_num(0.0), torch.where(lost, -1e6, rois[:, 1:])], dim=1)
    if not aligned or sampling_ratio > 0:
        return rois
    return torch.cat([rois[:, :3], torch.maximum(rois[:, 3:], rois[:, 1:3])], dim=1)


def _max_forward(
    features: Tensor, rois: Tensor, size: tuple[int, int], scale: float, ratio: int, aligned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Maximum of the samples of each bin and where it lies: values, y, x, each `(K, C, *size)`."""
    # The two kernels differ in the value they start from, which is what an empty bin returns.
    floor = -10000.0 if features.device.type == "cpu" else torch.finfo(torch.float32).min
    shape = (len(rois), features.shape[1], *size)
    values, at_y, at_x = features.new_full(shape, floor), features.new_full(shape, -1), features.new_full(shape, -1)
    box = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
    extent = box[:, 2:] - box[:, :2]
    if not aligned:
        extent = extent.clamp(min=1)
    x_step, y_step = extent[:, 0] / size[1], extent[:, 1] / size[0]
    y_count = torch.ceil(y_step).long() if ratio <= 0 else torch.full_like(rois[:, 0], ratio, dtype=torch.long)
    x_count = torch.ceil(x_step).long() if ratio <= 0 else y_count
    pixels = features.permute(0, 2, 3, 1)
    for part, rows, columns in same_grid(y_count, x_count, features.shape[1] * size[0] * size[1]):
        if rows <= 0 or columns <= 0:
            continue
        y = bin_points(box[part, 1], y_step[part], size[0], rows)[:, :, None, :, None]
        x = bin_points(box[part, 0], x_step[part], size[1], columns)[:, None, :, None, :]
        image = rois[part, 0].long()[:, None, None, None, None]
        samples = torch.zeros((), dtype=features.dtype, device=features.device)
        for y_index, y_weight in neighbours(y, features.shape[2]):
            for x_index, x_weight in neighbours(x, features.shape[3]):
                samples = samples + pixels[image, y_index, x_index] * (y_weight * x_weight)[..., None]
        samples = samples.flatten(3, 4)
        best = samples.argmax(dim=3, keepdim=True)
        value = samples.gather(3, best).squeeze(3)
        found = value > floor
        best = best.squeeze(3)
        where_y = y.expand(-1, -1, size[1], -1, columns).flatten(3).gather(3, best)
        where_x = x.expand(-1, size[0], -1, rows, -1).flatten(3).gather(3, best)
        values[part] = value.clamp(min=floor).permute(0, 3, 1, 2)
        at_y[part] = torch.where(found, where_y, -1.0).permute(0, 3, 1, 2)
        at_x[part] = torch.where(found, where_x, -1.0).permute(0, 3, 1, 2)
    return values, at_y, at_x


def _max_backward(grad: Tensor, rois: Tensor, at_y: Tensor, at_x: Tensor, shape: torch.Size) -> Tensor:
    """Send each bin's gradient to the pixels around its maximum: `(B, C, H, W)`."""
    channels, height, width = shape[1:]
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    plane = plane[:, :, None, None] * (height * width)
    grad = torch.where(at_y != -1, grad, 0.0)
    total = grad.new_zeros(shape.numel())
    for y_index, y_weight in neighbours(at_y, height):
        for x_index, x_weight in neighbours(at_x, width):
            target = plane + y_index * width + x_index
            total.index_add_(0, target.flatten(), (grad * y_weight * x_weight).flatten())
    return total.view(shape)


@like_compiled_op
def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pool regions of a feature map (`mmcv.ops.roi_align`).

    Args:
        input: `(B, C, H, W)`.
        rois: `(K, 5)`, see the module's docstring.
        output: Result buffer `(K, C, aligned_height, aligned_width)`.
        argmax_y: Buffer of the same shape for the maximum's y in pixels of the map; unused for the average.
        argmax_x: The same for x.
        aligned_height: Bins along y.
        aligned_width: Bins along x.
        spatial_scale: Pixels of the map for one pixel of the image.
        sampling_ratio: Points of a bin along each axis; 0 takes about one for each pixel of the map.
        pool_mode: 0 maximum, 1 average.
        aligned: Shift by half a pixel, and let regions be smaller than one pixel.
    """
    features = to_at_least_float32(input)
    regions = _readable(to_at_least_float32(rois).to(features.dtype), sampling_ratio, aligned)
    if pool_mode == _MAX:
        size = (aligned_height, aligned_width)
        values, at_y, at_x = _max_forward(features, regions, size, spatial_scale, sampling_ratio, aligned)
        output.copy_(values)
        argmax_y.copy_(at_y)
        argmax_x.copy_(at_x)
        return
    output.copy_(
        torch.ops.torchvision.roi_align(
            features, regions, spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
        )
    )


@like_compiled_op
def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of `roi_align_forward` to `grad_input` `(B, C, H, W)`; arguments as there."""
    grad = to_at_least_float32(grad_output)
    regions = _readable(to_at_least_float32(rois).to(grad.dtype), sampling_ratio, aligned)
    if pool_mode == _MAX:
        shape = grad_input.shape
        grad_input.add_(_max_backward(grad, regions, argmax_y.to(grad.dtype), argmax_x.to(grad.dtype), shape))
        return
    grad_input.add_(
        torch.ops.torchvision._roi_align_backward(
            grad,
            regions,
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )
