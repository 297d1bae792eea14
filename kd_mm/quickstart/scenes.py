"""Drawing scenes: real handwritten digits of several sizes on textured ground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Plane = NDArray[np.float32]
Box = tuple[int, int, int, int]

#: Height of a digit in pixels, smallest and largest; sizes are spread evenly over the logarithm.
DIGIT_HEIGHTS = (20, 44)
#: Objects of a scene, fewest and most; fewer where there is no room.
OBJECTS = (3, 8)
#: Share of the objects that the border cuts, and that a patch of ground covers, about half each. They are difficult.
TRUNCATED, OCCLUDED = 0.07, 0.07
#: A pixel belongs to a digit where its ink covers more than this.
_INK = 0.25
_TRIALS = 30


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene."""

    name: str  # its class
    box: Box  # x and y of the first visible pixel, and of the first behind the last, counted from 0
    truncated: bool  # the border of the image cuts it
    occluded: bool  # something covers a part of it

    @property
    def difficult(self) -> bool:
        """Whether an evaluation ignores it: about half of it is hidden."""
        return self.truncated or self.occluded


def draw_scene(
    rng: np.random.Generator, digits: Sequence[Image], labels: Sequence[int], size: tuple[int, int]
) -> tuple[Image, list[SceneObject]]:
    """Draw a scene.

    Args:
        rng: Where every choice comes from.
        digits: Grey images of digits, bright on dark; each scene takes a few at random.
        labels: The digit that each shows.
        size: Height and width of the scene in pixels.

    Returns:
        The image ``(H, W, 3)`` and its objects, at least one.
    """
    scene = _ground(rng, size)
    for _ in range(rng.integers(2, 7)):
        _stroke(rng, scene)
    objects: list[SceneObject] = []
    for _ in range(rng.integers(OBJECTS[0], OBJECTS[1] + 1)):
        index = int(rng.integers(len(digits)))
        found = _put_digit(rng, scene, digits[index], str(labels[index]), objects)
        if found is not None:
            objects.append(found)
    noisy = scene + rng.normal(0, 6, scene.shape).astype(np.float32)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8), objects


def _ground(rng: np.random.Generator, size: tuple[int, int]) -> Plane:
    """Return two colours ``(H, W, 3)`` that noise of several scales blends."""
    height, width = size
    blend = np.zeros(size, np.float32)
    for cell in (4, 8, 24):
        coarse = rng.random((height // cell + 2, width // cell + 2), dtype=np.float32)
        blend += rng.random() * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    blend = (blend - blend.min()) / (np.ptp(blend) + 1e-6)
    first = rng.uniform(40, 215, 3)
    second = np.clip(first + rng.uniform(-50, 50, 3), 0, 255)
    return (first + blend[..., None] * (second - first)).astype(np.float32)


def _stroke(rng: np.random.Generator, scene: Plane) -> None:
    """Draw an arc that belongs to no digit."""
    height, width = scene.shape[:2]
    center = int(rng.integers(width)), int(rng.integers(height))
    axes = int(rng.integers(3, 22)), int(rng.integers(3, 22))
    begin, turn = int(rng.integers(360)), int(rng.integers(30, 140))
    ink = scene[min(center[1], height - 1), center[0]] + _contrast(rng)
    thick = int(rng.integers(1, 4))
    cv2.ellipse(scene, center, axes, begin, 0, turn, [float(part) for part in ink], thick, cv2.LINE_AA)


def _contrast(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return how an ink differs from its ground: brighter or darker, with a tint."""
    return rng.choice((-1.0, 1.0)) * rng.uniform(45, 110) + rng.uniform(-25, 25, 3)


def _put_digit(
    rng: np.random.Generator, scene: Plane, digit: Image, name: str, others: Sequence[SceneObject]
) -> SceneObject | None:
    """Draw one digit where it hides no other; return it, or ``None`` where no room was found."""
    low, high = np.log(DIGIT_HEIGHTS)
    ink = _enlarged(rng, digit, float(np.exp(rng.uniform(low, high))))
    kind = rng.random()
    truncated, occluded = kind < TRUNCATED, TRUNCATED <= kind < TRUNCATED + OCCLUDED
    for _ in range(_TRIALS):
        x, y = _position(rng, ink.shape, scene.shape, truncated)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + ink.shape[1], scene.shape[1]), min(y + ink.shape[0], scene.shape[0])
        box = left, top, right, bottom
        if any(_touch(box, other.box) for other in others):
            continue
        visible = ink[top - y : bottom - y, left - x : right - x]
        if occluded:
            visible = _covered(rng, visible)
        region = scene[top:bottom, left:right]
        color = region.mean(axis=(0, 1)) + _contrast(rng)
        region += visible[..., None] * (color.astype(np.float32) - region)
        return SceneObject(name, _shrunk(box, visible), truncated, occluded)
    return None


def _enlarged(rng: np.random.Generator, digit: Image, height: float) -> Plane:
    """Return how much ink covers each pixel, 0 to 1, cut to the ink."""
    plane = digit.astype(np.float32) / 255
    rows, columns = _inked(plane)
    cut = plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = height / cut.shape[0]
    wide = max(4.0, scale * cut.shape[1] * rng.uniform(0.85, 1.2))
    padded = np.pad(cut, 1)
    large = cv2.resize(padded, None, fx=wide / cut.shape[1], fy=scale, interpolation=cv2.INTER_CUBIC)
    ink = np.clip(large, 0, 1, dtype=np.float32)
    rows, columns = _inked(ink)
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _inked(ink: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and the columns with pixels that belong to a digit."""
    return np.flatnonzero(ink.max(axis=1) > _INK), np.flatnonzero(ink.max(axis=0) > _INK)


def _position(
    rng: np.random.Generator, ink: tuple[int, ...], scene: tuple[int, ...], truncated: bool
) -> tuple[int, int]:
    """Return x and y of the digit's first pixel; a truncated one sticks out by about half over one border."""
    at = [int(rng.integers(0, full - part + 1)) for part, full in zip(ink[:2], scene[:2], strict=True)]
    if truncated:
        axis, out = int(rng.integers(2)), rng.uniform(0.4, 0.6)
        part, full = ink[axis], scene[axis]
        at[axis] = round(-out * part) if rng.random() < 0.5 else round(full - (1 - out) * part)
    return at[1], at[0]


def _covered(rng: np.random.Generator, ink: Plane) -> Plane:
    """Return the ink that is left when something covers 40 to 60 % of it from one side."""
    axis, share = int(rng.integers(2)), rng.uniform(0.4, 0.6)
    visible = ink.copy()
    at = round(share * ink.shape[axis])
    cover = slice(0, at) if rng.random() < 0.5 else slice(ink.shape[axis] - at, None)
    visible[(cover, slice(None)) if axis == 0 else (slice(None), cover)] = 0
    return visible


def _shrunk(box: Box, ink: Plane) -> Box:
    """Return the box around what is visible of the ink; all of the box where nothing of it stands out."""
    rows, columns = _inked(ink)
    if not len(rows) or not len(columns):
        return box
    x, y = box[:2]
    return x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1


def _touch(one: Box, other: Box) -> bool:
    return all(one[i] < other[i + 2] + 2 and other[i] < one[i + 2] + 2 for i in (0, 1))
