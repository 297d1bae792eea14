"""Reference operators of mmcv: float64 numpy loops written from their definitions."""

import math

import numpy as np


def random_boxes(count, seed, size=30.0):
    """Boxes `(count, 4)` and scores; every third box lies close to another, so that all degrees of overlap occur."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, size, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, size / 2, (count, 2))], axis=1)
    boxes[2::3] = boxes[: len(boxes[2::3])] + rng.normal(scale=size / 60, size=boxes[2::3].shape)
    return boxes.astype(np.float32), rng.uniform(0.05, 1, count).astype(np.float32)


def area(box, offset=0):
    return (box[2] - box[0] + offset) * (box[3] - box[1] + offset)


def intersection(a, b, offset=0):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    return width * height


def iou(a, b, offset=0):
    both = intersection(a, b, offset)
    union = area(a, offset) + area(b, offset) - both
    return both / union if union else math.nan


def nms(boxes, scores, threshold, offset=0):
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    kept = []
    for i in order:
        if not any(iou(boxes[k], boxes[i], offset) > threshold for k in kept):
            kept.append(i)
    return kept


def nms_match(boxes, scores, threshold):
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    groups, grouped = [], set()
    for position, i in enumerate(order):
        if i in grouped:
            continue
        group = [j for j in order[position + 1 :] if j not in grouped and iou(boxes[i], boxes[j]) >= threshold]
        grouped.update(group)
        groups.append([i, *group])
    return groups


def line_nms(lanes, scores, threshold, top_k):
    """Greedy, by falling score; lanes of 5 header numbers and 72 points as mmcv packs them."""
    order = sorted(range(len(lanes)), key=lambda i: (-scores[i], i))
    kept, suppressed, parent = [], set(), [0] * len(lanes)
    for position, i in enumerate(order):
        if i in suppressed:
            continue
        if len(kept) == top_k:
            break
        kept.append(i)
        parent[i] = len(kept)
        for j in order[position + 1 :]:
            starts = [int(lanes[n][2] * 71 + 0.5) for n in (i, j)]
            ends = [start + int(lanes[n][4]) for start, n in zip(starts, (i, j), strict=True)]
            common = range(max(starts), min(*ends, 72))
            if not common or max(starts) < 0:
                continue
            if sum(abs(lanes[i][5 + p] - lanes[j][5 + p]) for p in common) < threshold * len(common):
                suppressed.add(j)
                parent[j] = len(kept)
    return kept, parent


def soft_nms(boxes, scores, threshold, sigma, min_score, method, offset=0):
    """Selection in place: the best entry is swapped to the front, a suppressed one is overwritten by the last."""
    entries = [[list(box), float(score), i] for i, (box, score) in enumerate(zip(boxes, scores, strict=True))]
    first = 0
    while first < len(entries):
        best = first
        for other in range(first + 1, len(entries)):
            if entries[other][1] > entries[best][1]:
                best = other
        entries[first], entries[best] = entries[best], entries[first]
        other = first + 1
        while other < len(entries):
            overlap = iou(entries[first][0], entries[other][0], offset)
            if method == "gaussian":
                factor = math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                factor = 0.0 if method == "naive" else 1 - overlap
            else:
                factor = 1.0
            entries[other][1] *= factor
            if entries[other][1] < min_score:
                last = entries.pop()
                if other < len(entries):
                    entries[other] = last
            else:
                other += 1
        first += 1
    return np.array([[*box, score] for box, score, _ in entries]), [i for _, _, i in entries]


def zero_padded_sample(plane, y, x):
    """Bilinear value where everything outside the map is zero."""
    height, width = plane.shape
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for col in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= col < width:
                total += plane[row, col] * (1 - abs(y - row)) * (1 - abs(x - col))
    return total


def _deform_samples(shape, offset, kernel, stride, padding, dilation, groups):
    """Every (b, group, kernel index, row, column, y, x)."""
    height, width = offset.shape[2:]
    for b in range(shape[0]):
        for g in range(groups):
            for i in range(kernel[0]):
                for j in range(kernel[1]):
                    tap = i * kernel[1] + j
                    channel = 2 * (g * kernel[0] * kernel[1] + tap)
                    for r in range(height):
                        for q in range(width):
                            y = r * stride[0] - padding[0] + i * dilation[0] + offset[b, channel, r, q]
                            x = q * stride[1] - padding[1] + j * dilation[1] + offset[b, channel + 1, r, q]
                            yield b, g, tap, r, q, y, x


def deform_conv(features, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    batch, channels = features.shape[:2]
    out_channels, per_group, *kernel = weight.shape
    height, width = offset.shape[2:]
    taps = kernel[0] * kernel[1]
    columns = np.zeros((batch, channels, taps, height, width))
    share = channels // deform_groups
    for b, g, tap, r, q, y, x in _deform_samples(
        features.shape, offset, kernel, stride, padding, dilation, deform_groups
    ):
        factor = 1.0 if mask is None else mask[b, g * taps + tap, r, q]
        for c in range(g * share, (g + 1) * share):
            columns[b, c, tap, r, q] = factor * zero_padded_sample(features[b, c], y, x)
    out = np.zeros((batch, out_channels, height, width))
    for o in range(out_channels):
        first = (o // (out_channels // groups)) * per_group
        kernel_weights = weight[o].reshape(per_group, taps)
        out[:, o] = np.einsum("bcthw,ct->bhw", columns[:, first : first + per_group], kernel_weights)
        if bias is not None:
            out[:, o] += bias[o]
    return out


def deform_offset_gradient(features, offset, weight, stride, padding, dilation):
    """Gradient of the summed output by the offsets, one group: the slope in the pixel cell that a sample lies in.

    A sample that touches no pixel from inside, at -1 or beyond the last pixel plus one, has none.
    """
    grad = np.zeros_like(offset)
    height, width = features.shape[2:]
    weights = weight.sum(axis=0)
    for b, _, tap, r, q, y, x in _deform_samples(
        features.shape, offset, weight.shape[2:], stride, padding, dilation, 1
    ):
        if y <= -1 or x <= -1 or y >= height or x >= width:
            continue
        top, left = math.floor(y), math.floor(x)
        for c in range(features.shape[1]):

            def pixel(row, col, plane=features[b, c]):
                return plane[row, col] if 0 <= row < height and 0 <= col < width else 0.0

            corner = [[pixel(top + i, left + j) for j in (0, 1)] for i in (0, 1)]
            dy, dx = y - top, x - left
            factor = weights[c, tap // weight.shape[3], tap % weight.shape[3]]
            grad[b, 2 * tap, r, q] += factor * (
                (corner[1][0] - corner[0][0]) * (1 - dx) + (corner[1][1] - corner[0][1]) * dx
            )
            grad[b, 2 * tap + 1, r, q] += factor * (
                (corner[0][1] - corner[0][0]) * (1 - dy) + (corner[1][1] - corner[1][0]) * dy
            )
    return grad


def sigmoid_focal_loss(logits, target, gamma, alpha, weight=None):
    out = np.zeros_like(logits)
    for n in range(logits.shape[0]):
        for c in range(logits.shape[1]):
            p = 1 / (1 + math.exp(-logits[n, c]))
            if target[n] == c:
                out[n, c] = -alpha * (1 - p) ** gamma * math.log(p)
            else:
                out[n, c] = -(1 - alpha) * p**gamma * math.log(1 - p)
            if weight is not None and 0 <= target[n] < logits.shape[1]:
                out[n, c] *= weight[target[n]]
    return out


def softmax_focal_loss(logits, target, gamma, alpha, weight=None):
    out = np.zeros(len(logits))
    for n, row in enumerate(logits):
        if target[n] < 0:
            continue
        exponents = np.exp(row - row.max())
        p = exponents[target[n]] / exponents.sum()
        out[n] = -alpha * (1 - p) ** gamma * math.log(p) * (1 if weight is None else weight[target[n]])
    return out


def ms_deform_attn(value, shapes, locations, weights):
    batch, _, heads, depth = value.shape
    queries, _, levels, points = weights.shape[1:]
    out = np.zeros((batch, queries, heads, depth))
    start = 0
    for level in range(levels):
        height, width = shapes[level]
        maps = value[:, start : start + height * width].reshape(batch, height, width, heads, depth)
        start += height * width
        for b, q, m, p in np.ndindex(batch, queries, heads, points):
            x, y = locations[b, q, m, level, p] * (width, height) - 0.5
            for d in range(depth):
                sample = zero_padded_sample(maps[b, :, :, m, d], y, x)
                out[b, q, m, d] += weights[b, q, m, level, p] * sample
    return out.reshape(batch, queries, heads * depth)


def carafe(features, masks, kernel, groups, scale):
    batch, channels, height, width = features.shape
    out = np.zeros((batch, channels, height * scale, width * scale))
    reach = (kernel - 1) // 2
    for b, c, r, q in np.ndindex(*out.shape):
        group = c // (channels // groups)
        for i in range(kernel):
            for j in range(kernel):
                y, x = r // scale + i - reach, q // scale + j - reach
                if 0 <= y < height and 0 <= x < width:
                    tap = (group * kernel + i) * kernel + j
                    out[b, c, r, q] += features[b, c, y, x] * masks[b, tap, r, q]
    return out
