"""Rendering people as street cameras record them: synthetic, but hard in the ways that re-identification is hard."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from kd_mm.quickstart.people_cast import CLOTHES, Camera, Person, shade
from kd_mm.quickstart.people_figure import Figure

Picture = NDArray[np.uint8]

#: Height and width of an image in pixels.
SIZE = (64, 32)
#: Drawn so many times larger, then reduced.
_FINE = 3


def render_image(rng: np.random.Generator, camera: Camera, person: Person | None, shift: float = 0.0) -> Picture:
    """Return the image of a camera, RGB ``(64, 32, 3)``.

    Args:
        rng: Source of pose, position, cover and noise come from.
        camera: The camera.
        person: Who stands there, or None for a detection of nobody.
        shift: How far the detector has missed the person, as a share of height and width.
    """
    height, width = SIZE[0] * _FINE, SIZE[1] * _FINE
    canvas = Image.new("RGB", (width, height), camera.wall)
    pen = ImageDraw.Draw(canvas)
    _scenery(rng, pen, camera, width, height)
    if person is not None:
        Figure(rng, pen, camera, person, shift, width, height).draw()
    if rng.random() < 0.3:
        _cover(rng, pen, width, height)
    canvas = canvas.filter(ImageFilter.GaussianBlur(_FINE * camera.blur * rng.uniform(0.6, 1.5)))
    small = cv2.resize(np.asarray(canvas), SIZE[::-1], interpolation=cv2.INTER_AREA)
    return _expose(rng, small.astype(np.float64), camera)


def _expose(rng: np.random.Generator, picture: NDArray[np.float64], camera: Camera) -> Picture:
    """Apply the camera's light, a shadow from one side and noise."""
    left, right = (float(part) for part in rng.uniform(0.75, 1.2, 2))
    side = np.linspace(left, right, SIZE[1])[None, :, None]
    light = (picture / 255) ** (camera.gamma * rng.uniform(0.88, 1.14)) * np.array(camera.gain) * side
    light = light * (1 - camera.haze) + 0.55 * camera.haze
    noisy = 255 * light * rng.uniform(0.85, 1.12) + rng.normal(0, camera.noise, picture.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _scenery(rng: np.random.Generator, pen: ImageDraw.ImageDraw, camera: Camera, width: int, height: int) -> None:
    horizon = height * (camera.horizon + rng.uniform(-0.06, 0.06))
    pen.rectangle((0, horizon, width, height), fill=camera.ground)
    for _ in range(int(rng.integers(2, 7))):
        x, y = rng.uniform(-0.2, 1) * width, rng.uniform(-0.1, 0.9) * height
        box = (x, y, x + rng.uniform(0.1, 0.6) * width, y + rng.uniform(0.05, 0.5) * height)
        pen.rectangle(box, fill=shade(rng, (camera.wall, camera.ground, CLOTHES[int(rng.integers(10))]), 30))


def _cover(rng: np.random.Generator, pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    """Put a post, a low wall or somebody's shoulder in front."""
    fill, kind = shade(rng, CLOTHES, 30), int(rng.integers(3))
    if kind == 0:
        x = rng.uniform(0.1, 0.8) * width
        pen.rectangle((x, 0, x + rng.uniform(0.08, 0.22) * width, height), fill=fill)
    elif kind == 1:
        pen.rectangle((0, rng.uniform(0.55, 0.85) * height, width, height), fill=fill)
    else:
        x, y = rng.choice((-0.35, 0.7)) * width, rng.uniform(0.2, 0.5) * height
        pen.ellipse((x, y, x + 0.65 * width, y + 0.9 * height), fill=fill)
