"""RoIPool (Girshick, Fast R-CNN, ICCV 2015) with mmcv's bins.

torchvision rounds a region to whole pixels before it makes bins; mmcv makes bins of fractional size and widens each
to whole pixels. The results differ, so this is plain torch. Regions are `(K, 5)`: image index, x1, y1, x2, y2 in
pixels of the image, the far corner included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kd_mm.ops._dtype import like_compiled_op, to_at_least_float32
from kd_mm.ops.roi_utils import same_grid


def _edges(start: Tensor, step: Tensor, bins: int, size: int) -> tuple[Tensor, Tensor]:
    """First pixel and the pixel after the last of every bin, `(K, bins)` int64 each, cut to `[0, size]`."""
    number = torch.arange(bins, device=start.device)
    low = torch.floor(number * step[:, None] + start[:, None])
    high = torch.ceil((number + 1) * step[:, None] + start[:, None])
    return low.clamp(0, size).long(), high.clamp(0, size).long()


def _pixels(low: Tensor, high: Tensor, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Pixel indices `(k, bins, count)` of each bin and which of them belong to it."""
    index = low[:, :, None] + torch.arange(count, device=low.device)
    return index.clamp(max=size - 1), index < high[:, :, None]


@like_compiled_op
def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Take the maximum of each bin of each region (`mmcv.ops.roi_pool`).

    A bin without pixels gives 0. A region without size is skipped, as upstream: its row of the buffers stays as is.

    Args:
        input: `(B, C, H, W)`.
        rois: `(K, 5)`, see the module's docstring.
        output: Result buffer `(K, C, pooled_height, pooled_width)`.
        argmax: Buffer of the same shape, int32: `y * W + x` of the maximum, -1 for a bin without pixels.
        pooled_height: Bins along y.
        pooled_width: Bins along x.
        spatial_scale: Pixels of the map for one pixel of the image.
    """
    features = to_at_least_float32(input)
    regions = to_at_least_float32(rois).to(features.dtype)
    height, width = features.shape[2:]
    near, far = regions[:, 1:3] * spatial_scale, (regions[:, 3:] + 1) * spatial_scale
    extent = far - near
    y_low, y_high = _edges(near[:, 1], extent[:, 1] / pooled_height, pooled_height, height)
    x_low, x_high = _edges(near[:, 0], extent[:, 0] / pooled_width, pooled_width, width)
    sized = torch.nonzero((extent > 0).all(dim=1)).flatten()
    rows = (y_high - y_low).amax(dim=1).clamp(min=1)[sized]
    columns = (x_high - x_low).amax(dim=1).clamp(min=1)[sized]
    map_pixels = features.permute(0, 2, 3, 1)
    for members, tall, wide in same_grid(rows, columns, features.shape[1] * pooled_height * pooled_width):
        part = sized[members]
        y, y_valid = _pixels(y_low[part], y_high[part], tall, height)
        x, x_valid = _pixels(x_low[part], x_high[part], wide, width)
        y, y_valid = y[:, :, None, :, None], y_valid[:, :, None, :, None]
        x, x_valid = x[:, None, :, None, :], x_valid[:, None, :, None, :]
        image = regions[part, 0].long()[:, None, None, None, None]
        valid = (y_valid & x_valid).flatten(3)[..., None]
        samples = map_pixels[image, y, x].flatten(3, 4).masked_fill(~valid, -torch.inf)
        best = samples.argmax(dim=3, keepdim=True)
        value = samples.gather(3, best).squeeze(3)
        pixel = (y * width + x).flatten(3).gather(3, best.squeeze(3))
        filled = valid.any(dim=3)
        output[part] = torch.where(filled, value, 0.0).permute(0, 3, 1, 2).to(output.dtype)
        argmax[part] = torch.where(filled, pixel, -1).permute(0, 3, 1, 2).to(argmax.dtype)


@like_compiled_op
def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of `roi_pool_forward` to `grad_input` `(B, C, H, W)`; arguments as there."""
    grad = to_at_least_float32(grad_output)
    channels, height, width = grad_input.shape[1:]
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    filled = argmax >= 0
    target = plane[:, :, None, None] * (height * width) + argmax.long().clamp(min=0)
    total = grad.new_zeros(grad_input.numel())
    total.index_add_(0, target.flatten(), torch.where(filled, grad, 0.0).flatten())
    grad_input.add_(total.view(grad_input.shape))
