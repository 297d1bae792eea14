"""Reference RoI pooling operators of mmcv: float64 numpy loops written from their definitions."""

import math

import numpy as np

#: Image index, then corners: inside, second image, beyond the map on both sides, thin, fully outside.
ROIS = np.array(
    [
        [0, 1.3, 2.1, 9.7, 11.2],
        [1, 0.2, 0.4, 13.1, 12.6],
        [1, -4.3, -3.1, 5.2, 17.9],
        [0, 3.3, 2.2, 3.9, 9.1],
        [0, 40.0, 40.0, 50.0, 52.0],
    ]
)


def random_features(seed=0, size=(7, 8)):
    """Two maps of three channels."""
    return np.random.default_rng(seed).normal(size=(2, 3, *size))


def _clamped_sample(plane, y, x):
    """RoIAlign's bilinear value: within one pixel of the map the border goes on, beyond it there is nothing."""
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    return (
        plane[top, left] * (1 - dy) * (1 - dx)
        + plane[top, right] * (1 - dy) * dx
        + plane[bottom, left] * dy * (1 - dx)
        + plane[bottom, right] * dy * dx
    )


def roi_align(features, rois, size, scale, ratio, mode, aligned):
    out = np.zeros((len(rois), features.shape[1], *size))
    shift = 0.5 if aligned else 0.0
    for k, roi in enumerate(rois):
        x1, y1, x2, y2 = roi[1:] * scale - shift
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        step = (height / size[0], width / size[1])
        grid = (ratio, ratio) if ratio > 0 else (math.ceil(step[0]), math.ceil(step[1]))
        for c in range(features.shape[1]):
            for i in range(size[0]):
                for j in range(size[1]):
                    points = [
                        _clamped_sample(
                            features[int(roi[0]), c],
                            y1 + (i + (p + 0.5) / grid[0]) * step[0],
                            x1 + (j + (q + 0.5) / grid[1]) * step[1],
                        )
                        for p in range(grid[0])
                        for q in range(grid[1])
                    ]
                    if mode == "avg":
                        out[k, c, i, j] = sum(points) / max(len(points), 1)
                    else:
                        out[k, c, i, j] = max([-10000.0, *points])
    return out


def roi_pool(features, rois, size, scale):
    out = np.zeros((len(rois), features.shape[1], *size))
    height, width = features.shape[2:]
    for k, roi in enumerate(rois):
        x1, y1 = roi[1] * scale, roi[2] * scale
        w, h = (roi[3] + 1) * scale - x1, (roi[4] + 1) * scale - y1
        if w <= 0 or h <= 0:
            continue
        for i in range(size[0]):
            for j in range(size[1]):
                rows = range(
                    max(math.floor(i * h / size[0] + y1), 0), min(math.ceil((i + 1) * h / size[0] + y1), height)
                )
                cols = range(
                    max(math.floor(j * w / size[1] + x1), 0), min(math.ceil((j + 1) * w / size[1] + x1), width)
                )
                for c in range(features.shape[1]):
                    values = [features[int(roi[0]), c, r, q] for r in rows for q in cols]
                    out[k, c, i, j] = max(values, default=0.0)
    return out


def _deform_pool_points(rois, offset, size, scale, ratio, gamma):
    """Every (region, row, column, points of the bin, y, x, height, width): bins of RoIAlign, moved."""
    for k, roi in enumerate(rois):
        x1, y1, x2, y2 = roi[1:] * scale - 0.5
        width, height = x2 - x1, y2 - y1
        step = (height / size[0], width / size[1])
        grid = (ratio, ratio) if ratio > 0 else (max(math.ceil(step[0]), 0), max(math.ceil(step[1]), 0))
        for i, j in np.ndindex(*size):
            move_x, move_y = (0.0, 0.0) if offset is None else offset[k, :, i, j]
            for p, q in np.ndindex(*grid):
                y = y1 + gamma * height * move_y + (i + (p + 0.5) / grid[0]) * step[0]
                x = x1 + gamma * width * move_x + (j + (q + 0.5) / grid[1]) * step[1]
                yield k, i, j, grid[0] * grid[1], y, x, height, width


def deform_roi_pool(features, rois, offset, size, scale, ratio, gamma):
    out = np.zeros((len(rois), features.shape[1], *size))
    for k, i, j, count, y, x, _, _ in _deform_pool_points(rois, offset, size, scale, ratio, gamma):
        for c in range(features.shape[1]):
            out[k, c, i, j] += _clamped_sample(features[int(rois[k][0]), c], y, x) / count
    return out


def deform_roi_pool_offset_gradient(features, rois, offset, cotangent, scale, ratio, gamma):
    """The compiled operator's rule: slopes between the neighbouring pixels, at the point's own position, not clamped.

    Inside of the map it is the derivative. On its rim it differs: a point before the first pixel extrapolates the
    slope along the other axis, and a point from the last pixel on has twice the same neighbour, so none.
    """
    grad = np.zeros_like(offset)
    rows, cols = features.shape[2:]
    size = offset.shape[2:]
    for k, i, j, count, y, x, height, width in _deform_pool_points(rois, offset, size, scale, ratio, gamma):
        if y < -1 or y > rows or x < -1 or x > cols:
            continue
        top, left = min(int(max(y, 0)), rows - 1), min(int(max(x, 0)), cols - 1)
        bottom, right = min(top + 1, rows - 1), min(left + 1, cols - 1)
        for c in range(features.shape[1]):
            plane = features[int(rois[k][0]), c]
            share = gamma * cotangent[k, c, i, j] / count
            upper, lower = plane[top, right] - plane[top, left], plane[bottom, right] - plane[bottom, left]
            first, second = plane[bottom, left] - plane[top, left], plane[bottom, right] - plane[top, right]
            grad[k, 0, i, j] += share * width * (upper * (bottom - y) + lower * (y - top))
            grad[k, 1, i, j] += share * height * (first * (right - x) + second * (x - left))
    return grad
