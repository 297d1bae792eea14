"""Drawing people as street cameras see them: synthetic, but hard in the ways that re-identification is hard."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Picture = NDArray[np.uint8]
Color = tuple[int, int, int]

#: Height and width of an image in pixels.
SIZE = (64, 32)
#: Drawn so many times larger, then reduced.
_FINE = 3
_CLOTHES: tuple[Color, ...] = (
    *((28, 30, 36), (225, 222, 214), (128, 130, 134), (38, 58, 112), (150, 36, 40), (54, 96, 62)),
    *((196, 160, 60), (120, 84, 56), (110, 150, 190), (176, 96, 130)),
)
_SKIN: tuple[Color, ...] = ((236, 200, 172), (206, 158, 120), (150, 104, 74), (92, 62, 46))
_HAIR: tuple[Color, ...] = ((24, 20, 18), (84, 54, 32), (190, 152, 88), (150, 148, 146))
_PATTERNS = ("plain", "plain", "bars", "lines", "halves", "logo", "vest")
_LEGS = ("trousers", "trousers", "shorts", "skirt")
_BAGS = ("none", "backpack", "handbag", "sling")


@dataclass(frozen=True)
class Person:
    """What stays the same wherever a person is seen; ``width`` and ``height`` are factors."""

    shirt: Color
    second: Color
    pattern: str
    legs: str
    trousers: Color
    shoes: Color
    skin: Color
    hair: Color
    long_hair: bool
    hat: bool
    long_sleeves: bool
    bag: str
    bag_color: Color
    width: float
    height: float


@dataclass(frozen=True)
class Camera:
    """What all images of a camera share.

    Attributes:
        gain: Factor of each colour channel.
        gamma: Exponent of the brightness.
        haze: Share of grey.
        facing: From where people are mostly seen, in degrees: 0 in front, 90 from the side, 180 from behind.
        tilt: How much the view from above shortens the legs, as a factor.
        blur: Radius in pixels.
        noise: Standard deviation in grey levels.
        ground: Colour of the floor.
        wall: Colour of what is behind.
        horizon: Where the floor begins, as a share of the height.
    """

    gain: tuple[float, float, float]
    gamma: float
    haze: float
    facing: float
    tilt: float
    blur: float
    noise: float
    ground: Color
    wall: Color
    horizon: float


def draw_up(rng: np.random.Generator) -> Person:
    """Invent a person."""
    shirt, second, trousers, shoes, bag = (_shade(rng, _CLOTHES) for _ in range(5))
    return Person(
        shirt=shirt,
        second=second,
        pattern=str(rng.choice(_PATTERNS)),
        legs=str(rng.choice(_LEGS)),
        trousers=trousers,
        shoes=shoes,
        skin=_shade(rng, _SKIN, 6),
        hair=_shade(rng, _HAIR, 6),
        long_hair=bool(rng.random() < 0.4),
        hat=bool(rng.random() < 0.15),
        long_sleeves=bool(rng.random() < 0.6),
        bag=str(rng.choice(_BAGS)),
        bag_color=bag,
        width=float(rng.uniform(0.82, 1.22)),
        height=float(rng.uniform(0.88, 1.0)),
    )


def set_up(rng: np.random.Generator, number: int) -> Camera:
    """Invent the camera of a number, counted from 0; neighbours look at people from different sides."""
    red, green, blue = (float(part) for part in rng.uniform(0.74, 1.2, 3))
    return Camera(
        gain=(red, green, blue),
        gamma=float(rng.uniform(0.75, 1.4)),
        haze=float(rng.uniform(0.0, 0.25)),
        facing=(0.0, 160.0, 70.0, 25.0, 180.0, 115.0)[number % 6],
        tilt=float(rng.uniform(0.82, 1.0)),
        blur=float(rng.uniform(0.2, 0.8)),
        noise=float(rng.uniform(3, 9)),
        ground=_shade(rng, ((120, 116, 110), (96, 108, 84), (150, 140, 124)), 20),
        wall=_shade(rng, ((168, 160, 150), (96, 110, 96), (130, 136, 150), (110, 84, 70)), 25),
        horizon=float(rng.uniform(0.25, 0.6)),
    )


def take_picture(rng: np.random.Generator, camera: Camera, person: Person | None, shift: float = 0.0) -> Picture:
    """Return what a camera sees, RGB ``(64, 32, 3)``.

    Args:
        rng: Where pose, place, cover and noise come from.
        camera: The camera.
        person: Who stands there, or None for a detection of nobody.
        shift: How far the detector has missed the person, as a share of height and width.
    """
    height, width = SIZE[0] * _FINE, SIZE[1] * _FINE
    canvas = Image.new("RGB", (width, height), camera.wall)
    pen = ImageDraw.Draw(canvas)
    _scenery(rng, pen, camera, width, height)
    if person is not None:
        figure = _Figure(rng, pen, camera, person, shift, width, height)
        figure.draw()
    if rng.random() < 0.3:
        _cover(rng, pen, width, height)
    canvas = canvas.filter(ImageFilter.GaussianBlur(_FINE * camera.blur * rng.uniform(0.6, 1.5)))
    small = cv2.resize(np.asarray(canvas), SIZE[::-1], interpolation=cv2.INTER_AREA)
    return _expose(rng, small.astype(np.float64), camera)


def _shade(rng: np.random.Generator, colors: tuple[Color, ...], spread: int = 14) -> Color:
    color = np.array(colors[int(rng.integers(len(colors)))]) + rng.integers(-spread, spread + 1, 3)
    red, green, blue = (int(part) for part in np.clip(color, 4, 250))
    return red, green, blue


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
        pen.rectangle(box, fill=_shade(rng, (camera.wall, camera.ground, _CLOTHES[int(rng.integers(10))]), 30))


def _cover(rng: np.random.Generator, pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    """Put a post, a low wall or somebody's shoulder in front."""
    fill, kind = _shade(rng, _CLOTHES, 30), int(rng.integers(3))
    if kind == 0:
        x = rng.uniform(0.1, 0.8) * width
        pen.rectangle((x, 0, x + rng.uniform(0.08, 0.22) * width, height), fill=fill)
    elif kind == 1:
        pen.rectangle((0, rng.uniform(0.55, 0.85) * height, width, height), fill=fill)
    else:
        x, y = rng.choice((-0.35, 0.7)) * width, rng.uniform(0.2, 0.5) * height
        pen.ellipse((x, y, x + 0.65 * width, y + 0.9 * height), fill=fill)


class _Figure:
    """A person in one pose; lengths are shares of the body height, x counts from the middle of the body."""

    def __init__(
        self,
        rng: np.random.Generator,
        pen: ImageDraw.ImageDraw,
        camera: Camera,
        person: Person,
        shift: float,
        width: int,
        height: int,
    ) -> None:
        self.pen, self.person = pen, person
        self.angle = radians(camera.facing + rng.normal(0, 28))
        self.front, self.side = cos(self.angle), sin(self.angle)
        self.broad = person.width * (0.62 + 0.38 * abs(self.front))
        self.stride = float(rng.uniform(-1, 1))
        self.swing = float(rng.uniform(-1, 1))
        self.hand = -1 if rng.random() < 0.5 else 1
        self.scale = 0.94 * height * person.height * rng.uniform(0.9, 1.06)
        self.legs = 0.46 * camera.tilt
        away = rng.uniform(-1, 1, 2) * (0.09, 0.03) + shift * rng.choice((-1, 1), 2)
        self.x = width * (0.5 + away[0])
        self.top = height * (0.03 + 0.5 * (1 - person.height) + away[1])

    def _points(self, *places: tuple[float, float]) -> list[tuple[float, float]]:
        return [(self.x + self.scale * x, self.top + self.scale * y) for x, y in places]

    def _shape(self, fill: Color, *places: tuple[float, float]) -> None:
        self.pen.polygon(self._points(*places), fill=fill)

    def _line(self, fill: Color, wide: float, *places: tuple[float, float]) -> None:
        self.pen.line(self._points(*places), fill=fill, width=max(1, round(self.scale * wide)), joint="curve")

    def _disc(self, fill: Color, x: float, y: float, wide: float, high: float) -> None:
        (left, upper), (right, lower) = self._points((x - wide, y - high), (x + wide, y + high))
        self.pen.ellipse((left, upper, right, lower), fill=fill)

    def draw(self) -> None:
        """Draw from back to front, as seen from where the camera is."""
        if self.person.bag == "backpack" and self.front > -0.3:
            self._backpack()
        self._legs()
        self._torso()
        self._arms()
        self._head()
        if self.person.bag == "backpack" and self.front <= -0.3:
            self._backpack()
        elif self.person.bag == "handbag":
            x = self.hand * (0.13 * self.broad + 0.02)
            self._shape(self.person.bag_color, (x - 0.05, 0.56), (x + 0.05, 0.56), (x + 0.06, 0.67), (x - 0.06, 0.67))
        elif self.person.bag == "sling":
            x = 0.11 * self.broad * (1 if self.front > 0 else -1)
            self._line(self.person.bag_color, 0.025, (-x, 0.17), (x, 0.5))
            self._disc(self.person.bag_color, x, 0.5, 0.05, 0.045)

    def _backpack(self) -> None:
        x = -0.13 * self.side * self.broad
        wide = 0.085 if abs(self.front) > 0.3 else 0.06
        self._shape(
            self.person.bag_color, (x - wide, 0.2), (x + wide, 0.2), (x + 1.1 * wide, 0.42), (x - 1.1 * wide, 0.42)
        )

    def _legs(self) -> None:
        person, hip, foot = self.person, 0.5, 0.5 + self.legs
        knee = (hip + foot) / 2
        spread = 0.1 * self.stride * (0.35 + 0.65 * abs(self.side))
        for which in (-1, 1):
            start, end = which * 0.045 * self.broad, which * (0.05 * self.broad + spread)
            bare = person.legs != "trousers"
            self._line(person.skin if bare else person.trousers, 0.07 * person.width, (start, hip), (end, foot))
            if person.legs == "shorts":
                middle = (start + end) / 2
                self._line(person.trousers, 0.085 * person.width, (start, hip), (middle, knee))
            self._disc(person.shoes, end + 0.02 * self.side, foot, 0.045, 0.022)
        if person.legs == "skirt":
            wide = 0.085 * self.broad
            self._shape(
                person.trousers, (-wide, hip - 0.03), (wide, hip - 0.03), (1.6 * wide, knee), (-1.6 * wide, knee)
            )

    def _torso(self) -> None:
        person, wide = self.person, 0.115 * self.broad
        self._shape(person.shirt, (-wide, 0.17), (wide, 0.17), (0.85 * wide, 0.53), (-0.85 * wide, 0.53))
        if person.pattern == "bars":
            for y in (0.22, 0.31, 0.4):
                self._shape(person.second, (-wide, y), (wide, y), (wide, y + 0.04), (-wide, y + 0.04))
        elif person.pattern == "lines":
            for x in (-0.6, 0.0, 0.6):
                self._line(person.second, 0.02, (x * wide, 0.18), (x * wide, 0.52))
        elif person.pattern == "halves":
            self._shape(person.second, (-wide, 0.35), (wide, 0.35), (0.85 * wide, 0.53), (-0.85 * wide, 0.53))
        elif person.pattern == "logo" and self.front > 0.2:
            self._disc(person.second, 0.3 * wide * self.side, 0.28, 0.045, 0.045)
        elif person.pattern == "vest" and self.front > 0.0:
            self._shape(person.second, (-0.35 * wide, 0.17), (0.35 * wide, 0.17), (0.2 * wide, 0.5), (-0.2 * wide, 0.5))

    def _arms(self) -> None:
        person, shoulder = self.person, 0.115 * self.broad
        for which in (-1, 1):
            x = which * (shoulder + 0.01)
            hand = x + which * 0.03 + 0.08 * self.swing * which * self.side
            elbow = ((x + hand) / 2 + which * 0.01, 0.34)
            self._line(person.skin, 0.045, (x, 0.2), elbow, (hand, 0.52))
            sleeve = ((x, 0.2), elbow, (hand, 0.49)) if person.long_sleeves else ((x, 0.2), elbow)
            self._line(person.shirt, 0.055, *sleeve)

    def _head(self) -> None:
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
