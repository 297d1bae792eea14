"""Inventing people and cameras for a synthetic re-identification set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Color = tuple[int, int, int]

CLOTHES: tuple[Color, ...] = (
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
    """What stays the same in all images of a person; ``width`` and ``height`` are factors."""

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
        facing: Mean direction of the view of people in degrees: 0 in front, 90 from the side, 180 from behind.
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


def random_person(rng: np.random.Generator) -> Person:
    """Invent a person."""
    shirt, second, trousers, shoes, bag = (shade(rng, CLOTHES) for _ in range(5))
    return Person(
        shirt=shirt,
        second=second,
        pattern=str(rng.choice(_PATTERNS)),
        legs=str(rng.choice(_LEGS)),
        trousers=trousers,
        shoes=shoes,
        skin=shade(rng, _SKIN, 6),
        hair=shade(rng, _HAIR, 6),
        long_hair=bool(rng.random() < 0.4),
        hat=bool(rng.random() < 0.15),
        long_sleeves=bool(rng.random() < 0.6),
        bag=str(rng.choice(_BAGS)),
        bag_color=bag,
        width=float(rng.uniform(0.82, 1.22)),
        height=float(rng.uniform(0.88, 1.0)),
    )


def random_camera(rng: np.random.Generator, number: int) -> Camera:
    """Return a random camera; neighbours in number, counted from 0, look at people from different sides."""
    red, green, blue = (float(part) for part in rng.uniform(0.74, 1.2, 3))
    return Camera(
        gain=(red, green, blue),
        gamma=float(rng.uniform(0.75, 1.4)),
        haze=float(rng.uniform(0.0, 0.25)),
        facing=(0.0, 160.0, 70.0, 25.0, 180.0, 115.0)[number % 6],
        tilt=float(rng.uniform(0.82, 1.0)),
        blur=float(rng.uniform(0.2, 0.8)),
        noise=float(rng.uniform(3, 9)),
        ground=shade(rng, ((120, 116, 110), (96, 108, 84), (150, 140, 124)), 20),
        wall=shade(rng, ((168, 160, 150), (96, 110, 96), (130, 136, 150), (110, 84, 70)), 25),
        horizon=float(rng.uniform(0.25, 0.6)),
    )


def shade(rng: np.random.Generator, colors: tuple[Color, ...], spread: int = 14) -> Color:
    """Return one of some colours, each channel off by at most ``spread``."""
    color = np.array(colors[int(rng.integers(len(colors)))]) + rng.integers(-spread, spread + 1, 3)
    red, green, blue = (int(part) for part in np.clip(color, 4, 250))
    return red, green, blue
