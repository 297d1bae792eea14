"""Drawing one person in one pose, from one side."""

from __future__ import annotations

from math import cos, radians, sin

import numpy as np
from PIL import ImageDraw

from kd_mm.quickstart.people_cast import Camera, Color, Person


class Figure:
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

    def _points(self, *points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(self.x + self.scale * x, self.top + self.scale * y) for x, y in points]

    def _shape(self, fill: Color, *points: tuple[float, float]) -> None:
        self.pen.polygon(self._points(*points), fill=fill)

    def _line(self, fill: Color, wide: float, *points: tuple[float, float]) -> None:
        self.pen.line(self._points(*points), fill=fill, width=max(1, round(self.scale * wide)), joint="curve")

    def _disc(self, fill: Color, x: float, y: float, wide: float, high: float) -> None:
        (left, upper), (right, lower) = self._points((x - wide, y - high), (x + wide, y + high))
        self.pen.ellipse((left, upper, right, lower), fill=fill)

    def draw(self) -> None:
        """Draw from back to front, from the camera's side."""
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
