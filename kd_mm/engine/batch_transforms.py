"""Random transforms of image pipelines, drawn and applied for a batch of images at once.

Each class takes the upstream transform whose distribution it has, and the channels, height and width of the images that
it will get. A call maps uint8 images ``(B, C, H, W)`` to such images under a generator on their device; nothing is read
back from the device.
"""

import math
from collections.abc import Callable
from typing import Any

import mmcv
import numpy as np
import torch
from mmcv.transforms import RandomFlip
from mmpretrain.datasets.transforms import Cutout, RandomCrop, RandomErasing
from torch import Generator, Tensor

BatchTransform = Callable[[Tensor, Generator], Tensor]
Size = tuple[int, ...]
_DIMS = {"horizontal": (3,), "vertical": (2,), "diagonal": (2, 3)}


class BatchCrop:
    """Pads images by a constant and crops each at an offset of its own.

    Raises:
        ValueError: The crop is larger than the padded images.
    """

    def __init__(self, transform: RandomCrop, size: Size, device: torch.device) -> None:
        padding = transform.padding or 0
        padding = [padding] * 4 if isinstance(padding, int) else list(padding)
        self.left, self.top, right, bottom = padding if len(padding) == 4 else padding * 2
        self.crop = tuple(transform.crop_size)
        self.padded = (size[1] + self.top + bottom, size[2] + self.left + right)
        self.offsets = [padded - crop + 1 for padded, crop in zip(self.padded, self.crop, strict=True)]
        if min(self.offsets) < 1:
            raise ValueError(f"{transform} is larger than the padded images, {self.padded[0]}x{self.padded[1]} pixels")
        # OpenCV pads by a rounded value, and by a single number in the first channel alone.
        padded = mmcv.impad(np.zeros((1, 1, size[0]), np.uint8), padding=(1, 0, 0, 0), pad_val=transform.pad_val)
        self.fill = _colour(padded.reshape(1, 2, -1)[0, 0], size[0], device)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        count, channels, height, width = images.shape
        canvas = self.fill.expand(count, channels, *self.padded).clone()
        canvas[:, :, self.top : self.top + height, self.left : self.left + width] = images
        windows = canvas.unfold(2, self.crop[0], 1).unfold(3, self.crop[1], 1)  # a view, (B, C, Y, X, height, width)
        y, x = (_uniform(1, count, generator)[0].mul(number).long() for number in self.offsets)
        return windows[torch.arange(count, device=images.device), :, y, x]


class BatchFlip:
    """Flips each image in one of the directions or in none."""

    def __init__(self, transform: RandomFlip, size: Size, device: torch.device) -> None:
        directions, share = transform.direction, transform.prob
        directions = [directions] if isinstance(directions, str) else directions
        shares = share if isinstance(share, list) else [share / len(directions)] * len(directions)
        self.flips = [(_DIMS[name], share) for name, share in zip(directions, shares, strict=True)]

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        (draw,) = _uniform(1, len(images), generator)
        chosen = torch.arange(len(images), device=images.device)
        begin = 0.0
        for number, (_, share) in enumerate(self.flips, start=1):
            chosen += len(images) * number * ((draw >= begin) & (draw < begin + share))
            begin += share
        # One copy of the batch in each direction, then one index an image: five times as fast as torch.where on a CPU.
        return torch.cat([images, *(images.flip(dims) for dims, _ in self.flips)]).index_select(0, chosen)


class BatchErasing:
    """Fills a rectangle of random area, aspect and position in some of the images."""

    def __init__(self, transform: RandomErasing, size: Size, device: torch.device) -> None:
        self.share, self.mode, self.noisy = transform.erase_prob, transform.mode, transform.fill_std is not None
        self.areas = [size[1] * size[2] * ratio for ratio in (transform.min_area_ratio, transform.max_area_ratio)]
        self.aspects = [math.log(ratio) for ratio in transform.aspect_range]
        self.fill = _colour(transform.fill_color, size[0], device)
        self.mean, self.std = (
            torch.tensor(value, dtype=torch.float32, device=device).view(-1, 1, 1)
            for value in (transform.fill_color, transform.fill_std or [0])
        )

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        count, (height, width) = len(images), images.shape[2:]
        erased, area, aspect, y, x = _uniform(5, count, generator)
        area = self.areas[0] + area * (self.areas[1] - self.areas[0])
        aspect = (self.aspects[0] + aspect * (self.aspects[1] - self.aspects[0])).exp()
        h, w = (area * aspect).sqrt().round().clamp(max=height), (area / aspect).sqrt().round().clamp(max=width)
        # As upstream: the last row and column are reached by rectangles of full height or width only.
        top, left = (y * (height - h)).floor(), (x * (width - w)).floor()
        h = torch.where(erased <= self.share, h, 0)
        return torch.where(_boxes(top, left, h, w, images), self._patch(images, generator), images)

    def _patch(self, images: Tensor, generator: Generator) -> Tensor:
        if self.mode == "const":
            return self.fill
        if not self.noisy:
            return torch.empty_like(images).random_(0, 256, generator=generator)
        noise = torch.empty(images.shape, device=images.device).normal_(generator=generator)
        return (noise * self.std + self.mean).clamp(0, 255).byte()


class BatchCutout:
    """Fills a rectangle of one size around a random pixel in some of the images.

    Raises:
        ValueError: A size that is drawn anew for each image.
    """

    def __init__(self, transform: Cutout, size: Size, device: torch.device) -> None:
        shape = transform.shape
        if shape is None:
            if transform.magnitude_std == "inf" or transform.magnitude_std > 0:
                raise ValueError(f"{transform} with magnitude_std={transform.magnitude_std}: give it a shape")
            shape = int(transform.random_magnitude())
        self.cut = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self.share, self.fill = transform.prob, _colour(transform.pad_val, size[0], device)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        cut, y, x = _uniform(3, len(images), generator)
        # As upstream, where the centre lies between 1 and the side.
        top, left = (
            (side - centre * (side - 1) - length / 2).clamp(min=0).floor()
            for centre, side, length in zip((y, x), images.shape[2:], self.cut, strict=True)
        )
        height, width = (torch.full_like(cut, length) for length in self.cut)
        height = torch.where(cut <= self.share, height, 0)
        return torch.where(_boxes(top, left, height, width, images), self.fill, images)


#: By the exact type of the upstream transform.
BATCH_TRANSFORMS: dict[type, Callable[[Any, Size, torch.device], BatchTransform]] = {
    RandomCrop: BatchCrop,
    RandomFlip: BatchFlip,
    RandomErasing: BatchErasing,
    Cutout: BatchCutout,
}


def _uniform(rows: int, count: int, generator: Generator) -> Tensor:
    """Return numbers from 0 up to and without 1, ``(rows, count)``."""
    return torch.rand(rows, count, generator=generator, device=generator.device)


def _colour(value: Any, channels: int, device: torch.device) -> Tensor:
    """Return a colour ``(C, 1, 1)``, or one number for all channels, as the uint8 that NumPy makes of it."""
    colour = np.broadcast_to(np.array(value).astype(np.uint8), (channels,)).copy()
    return torch.from_numpy(colour).to(device).view(-1, 1, 1)


def _boxes(top: Tensor, left: Tensor, height: Tensor, width: Tensor, images: Tensor) -> Tensor:
    """Return which pixels lie in the rectangle of their image, ``(B, 1, H, W)``."""
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
    top, left = top[:, None], left[:, None]
    inside_rows = (rows >= top) & (rows < top + height[:, None])
    inside_columns = (columns >= left) & (columns < left + width[:, None])
    return inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
