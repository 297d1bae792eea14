"""People and cameras, and images of them: synthetic, but hard in the ways that re-identification is hard."""

from __future__ import annotations

from math import cos, radians, sin

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Picture = NDArray[np.uint8]
Color = tuple[int, int, int]
Point = tuple[float, float]

#: Height and width of an image in pixels.
SIZE = (64, 32)
#: Drawn three times as large, then reduced.
_SCALE = 3
_HEIGHT, _WIDTH = SIZE[0] * _SCALE, SIZE[1] * _SCALE

_CLOTHES: tuple[Color, ...] = (
    *((28, 30, 36), (225, 222, 214), (128, 130, 134), (38, 58, 112), (150, 36, 40), (54, 96, 62)),
    *((196, 160, 60), (120, 84, 56), (110, 150, 190), (176, 96, 130)),
)
_SKIN: tuple[Color, ...] = ((236, 200, 172), (206, 158, 120), (150, 104, 74), (92, 62, 46))
_HAIR: tuple[Color, ...] = ((24, 20, 18), (84, 54, 32), (190, 152, 88), (150, 148, 146))
_PATTERNS = ("plain", "plain", "bars", "lines", "halves", "logo", "vest")
_LEGS = ("trousers", "trousers", "shorts", "skirt")
_BAGS = ("none", "backpack", "handbag", "sling")


class Person:
    """A random person: what all images of it share."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.shirt, self.second, self.trousers, self.shoes, self.bag_color = (_shade(rng, _CLOTHES) for _ in range(5))
        self.pattern = str(rng.choice(_PATTERNS))
        self.legs = str(rng.choice(_LEGS))
        self.skin = _shade(rng, _SKIN, 6)
        self.hair = _shade(rng, _HAIR, 6)
        self.long_hair = rng.random() < 0.4
        self.hat = rng.random() < 0.15
        self.long_sleeves = rng.random() < 0.6
        self.bag = str(rng.choice(_BAGS))
        self.width, self.height = rng.uniform(0.82, 1.22), rng.uniform(0.88, 1.0)  # factors


class Camera:
    """A random camera: what all its images share.

    Args:
        rng: Source of all choices.
        number: Counted from 0; neighbours look at people from different sides.
    """

    def __init__(self, rng: np.random.Generator, number: int) -> None:
        self.gain = rng.uniform(0.74, 1.2, 3)  # factor of each colour channel
        self.gamma = rng.uniform(0.75, 1.4)  # exponent of the brightness
        self.haze = rng.uniform(0.0, 0.25)  # share of grey
        # Mean direction of the view of people in degrees: 0 in front, 90 from the side, 180 from behind.
        self.facing = (0, 160, 70, 25, 180, 115)[number % 6]
        self.tilt = rng.uniform(0.82, 1.0)  # how much the view from above shortens the legs, as a factor
        self.blur = rng.uniform(0.2, 0.8)  # radius in pixels
        self.noise = rng.uniform(3, 9)  # standard deviation in grey levels
        self.ground = _shade(rng, ((120, 116, 110), (96, 108, 84), (150, 140, 124)), 20)
        self.wall = _shade(rng, ((168, 160, 150), (96, 110, 96), (130, 136, 150), (110, 84, 70)), 25)
        self.horizon = rng.uniform(0.25, 0.6)  # where the floor begins, as a share of the height


def _shade(rng: np.random.Generator, colors: tuple[Color, ...], spread: int = 14) -> Color:
    """Return one of some colours, each channel off by at most ``spread``."""
    color = np.array(colors[int(rng.integers(len(colors)))]) + rng.integers(-spread, spread + 1, 3)
    red, green, blue = (int(part) for part in np.clip(color, 4, 250))
    return red, green, blue


def render_image(rng: np.random.Generator, camera: Camera, person: Person | None, shift: float = 0.0) -> Picture:
    """Return the image of a camera, RGB ``(64, 32, 3)``.

    Args:
        rng: Source of pose, position, cover and noise.
        camera: The camera.
        person: Who stands there, or None for a detection of nobody.
        shift: How far the detector has missed the person, as a share of height and width.
    """
    canvas = Image.new("RGB", (_WIDTH, _HEIGHT), camera.wall)
    pen = ImageDraw.Draw(canvas)
    _draw_background(rng, pen, camera)
    if person is not None:
        _Figure(rng, pen, camera, person, shift).draw()
    if rng.random() < 0.3:
        _draw_cover(rng, pen)
    canvas = canvas.filter(ImageFilter.GaussianBlur(_SCALE * camera.blur * rng.uniform(0.6, 1.5)))
    small = cv2.resize(np.asarray(canvas), SIZE[::-1], interpolation=cv2.INTER_AREA)
    return _expose(rng, small.astype(np.float64), camera)


def _draw_background(rng: np.random.Generator, pen: ImageDraw.ImageDraw, camera: Camera) -> None:
    pen.rectangle((0, _HEIGHT * (camera.horizon + rng.uniform(-0.06, 0.06)), _WIDTH, _HEIGHT), fill=camera.ground)
    for _ in range(int(rng.integers(2, 7))):
        x, y = rng.uniform(-0.2, 1) * _WIDTH, rng.uniform(-0.1, 0.9) * _HEIGHT
        box = (x, y, x + rng.uniform(0.1, 0.6) * _WIDTH, y + rng.uniform(0.05, 0.5) * _HEIGHT)
        pen.rectangle(box, fill=_shade(rng, (camera.wall, camera.ground, _CLOTHES[int(rng.integers(10))]), 30))


def _draw_cover(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    """Put a post, a low wall or somebody's shoulder in front."""
    fill, kind = _shade(rng, _CLOTHES, 30), int(rng.integers(3))
    if kind == 0:
        x = rng.uniform(0.1, 0.8) * _WIDTH
        pen.rectangle((x, 0, x + rng.uniform(0.08, 0.22) * _WIDTH, _HEIGHT), fill=fill)
    elif kind == 1:
        pen.rectangle((0, rng.uniform(0.55, 0.85) * _HEIGHT, _WIDTH, _HEIGHT), fill=fill)
    else:
        x, y = rng.choice((-0.35, 0.7)) * _WIDTH, rng.uniform(0.2, 0.5) * _HEIGHT
        pen.ellipse((x, y, x + 0.65 * _WIDTH, y + 0.9 * _HEIGHT), fill=fill)


def _expose(rng: np.random.Generator, picture: NDArray[np.float64], camera: Camera) -> Picture:
    """Apply the camera's light, a shadow from one side and noise."""
    left, right = (float(part) for part in rng.uniform(0.75, 1.2, 2))
    side = np.linspace(left, right, SIZE[1])[None, :, None]
    light = (picture / 255) ** (camera.gamma * rng.uniform(0.88, 1.14)) * camera.gain * side
    light = light * (1 - camera.haze) + 0.55 * camera.haze
    noisy = 255 * light * rng.uniform(0.85, 1.12) + rng.normal(0, camera.noise, picture.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


class _Figure:
    """A person in one pose; lengths are shares of the body height, x counts from the middle of the body."""

    def __init__(
        self, rng: np.random.Generator, pen: ImageDraw.ImageDraw, camera: Camera, person: Person, shift: float
    ) -> None:
        self.pen, self.person = pen, person
        angle = radians(camera.facing + rng.normal(0, 28))
        self.front, self.side = cos(angle), sin(angle)
        self.broad = person.width * (0.62 + 0.38 * abs(self.front))
        self.stride = float(rng.uniform(-1, 1))
        self.swing = float(rng.uniform(-1, 1))
        self.hand = -1 if rng.random() < 0.5 else 1
        self.scale = 0.94 * _HEIGHT * person.height * rng.uniform(0.9, 1.06)
        self.legs = 0.46 * camera.tilt
        away = rng.uniform(-1, 1, 2) * (0.09, 0.03) + shift * rng.choice((-1, 1), 2)
        self.x = _WIDTH * (0.5 + away[0])
        self.top = _HEIGHT * (0.03 + 0.5 * (1 - person.height) + away[1])

    def _points(self, *points: Point) -> list[Point]:
        return [(self.x + self.scale * x, self.top + self.scale * y) for x, y in points]

    def _band(self, fill: Color, top: float, wide: float, bottom: float, wide_below: float, x: float = 0.0) -> None:
        """Draw a trapezoid around ``x`` of half-widths above and below."""
        corners = (x - wide, top), (x + wide, top), (x + wide_below, bottom), (x - wide_below, bottom)
        self.pen.polygon(self._points(*corners), fill=fill)

    def _line(self, fill: Color, wide: float, *points: Point) -> None:
        self.pen.line(self._points(*points), fill=fill, width=max(1, round(self.scale * wide)), joint="curve")

    def _disc(self, fill: Color, x: float, y: float, wide: float, high: float) -> None:
        upper, lower = self._points((x - wide, y - high), (x + wide, y + high))
        self.pen.ellipse((*upper, *lower), fill=fill)

    def draw(self) -> None:
        """Draw from back to front, from the camera's side."""
        bag, color = self.person.bag, self.person.bag_color
        if bag == "backpack" and self.front > -0.3:
            self._backpack()
        self._draw_legs()
        self._draw_torso()
        self._draw_arms()
        self._draw_head()
        if bag == "backpack" and self.front <= -0.3:
            self._backpack()
        elif bag == "handbag":
            self._band(color, 0.56, 0.05, 0.67, 0.06, x=self.hand * (0.13 * self.broad + 0.02))
        elif bag == "sling":
            x = 0.11 * self.broad * (1 if self.front > 0 else -1)
            self._line(color, 0.025, (-x, 0.17), (x, 0.5))
            self._disc(color, x, 0.5, 0.05, 0.045)

    def _backpack(self) -> None:
        wide = 0.085 if abs(self.front) > 0.3 else 0.06
        self._band(self.person.bag_color, 0.2, wide, 0.42, 1.1 * wide, x=-0.13 * self.side * self.broad)

    def _draw_legs(self) -> None:
        person, hip, foot = self.person, 0.5, 0.5 + self.legs
        knee = (hip + foot) / 2
        spread = 0.1 * self.stride * (0.35 + 0.65 * abs(self.side))
        for which in (-1, 1):
            start, end = which * 0.045 * self.broad, which * (0.05 * self.broad + spread)
            bare = person.legs != "trousers"
            self._line(person.skin if bare else person.trousers, 0.07 * person.width, (start, hip), (end, foot))
            if person.legs == "shorts":
                self._line(person.trousers, 0.085 * person.width, (start, hip), ((start + end) / 2, knee))
            self._disc(person.shoes, end + 0.02 * self.side, foot, 0.045, 0.022)
        if person.legs == "skirt":
            wide = 0.085 * self.broad
            self._band(person.trousers, hip - 0.03, wide, knee, 1.6 * wide)

    def _draw_torso(self) -> None:
        person, wide = self.person, 0.115 * self.broad
        self._band(person.shirt, 0.17, wide, 0.53, 0.85 * wide)
        if person.pattern == "bars":
            for y in (0.22, 0.31, 0.4):
                self._band(person.second, y, wide, y + 0.04, wide)
        elif person.pattern == "lines":
            for x in (-0.6, 0.0, 0.6):
                self._line(person.second, 0.02, (x * wide, 0.18), (x * wide, 0.52))
        elif person.pattern == "halves":
            self._band(person.second, 0.35, wide, 0.53, 0.85 * wide)
        elif person.pattern == "logo" and self.front > 0.2:
            self._disc(person.second, 0.3 * wide * self.side, 0.28, 0.045, 0.045)
        elif person.pattern == "vest" and self.front > 0.0:
            self._band(person.second, 0.17, 0.35 * wide, 0.5, 0.2 * wide)

    def _draw_arms(self) -> None:
        person, shoulder = self.person, 0.115 * self.broad
        for which in (-1, 1):
            x = which * (shoulder + 0.01)
            hand = x + which * 0.03 + 0.08 * self.swing * which * self.side
            elbow = ((x + hand) / 2 + which * 0.01, 0.34)
            self._line(person.skin, 0.045, (x, 0.2), elbow, (hand, 0.52))
            sleeve = ((x, 0.2), elbow, (hand, 0.49)) if person.long_sleeves else ((x, 0.2), elbow)
            self._line(person.shirt, 0.055, *sleeve)

    def _draw_head(self) -> None:
        person, x = self.person, 0.02 * self.side
        self._disc(person.skin, x, 0.085, 0.05, 0.07)
        if person.long_hair:
            self._disc(person.hair, x - 0.03 * self.side, 0.1 if self.front > 0 else 0.12, 0.062, 0.09)
        else:
            self._disc(person.hair, x - 0.012 * self.side, 0.06, 0.054, 0.055)
        if self.front > 0.1:
            self._disc(person.skin, x + 0.02 * self.side, 0.1, 0.042, 0.052)
        elif self.front < -0.5:
            self._disc(person.hair, x, 0.08, 0.052, 0.065)
        if person.hat:
            self._disc(person.second, x, 0.035, 0.06, 0.032)
