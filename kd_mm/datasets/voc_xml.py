"""Reads one annotation file in the format of Pascal VOC."""

import math
from dataclasses import dataclass
from xml.etree import ElementTree


@dataclass(frozen=True)
class VOCObject:
    """One object as the file has it.

    Attributes:
        name: Its class.
        box: ``(xmin, ymin, xmax, ymax)`` in pixels, the first pixel of the image is 1; fractions are kept.
        difficult: Whether it is marked as difficult.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class VOCAnnotation:
    """One annotation file.

    Attributes:
        size: Width and height in pixels; None where the file does not say it in positive numbers.
        objects: The objects, in the order of the file.
    """

    size: tuple[int, int] | None
    objects: list[VOCObject]


def parse_annotation(content: bytes) -> VOCAnnotation:
    """Parse the bytes of an annotation file.

    ``<depth>`` and everything else that training has no use for is not looked at.

    Raises:
        ValueError: One line that says what is wrong, without the name of the file.
    """
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"it is not XML ({error})") from error
    if root.tag != "annotation":
        raise ValueError(f"its outermost element is <{root.tag}>, not <annotation>")
    return VOCAnnotation(_size(root), [_object(number, item) for number, item in enumerate(root.findall("object"), 1)])


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    width, height = (_number(root.findtext(f"size/{side}")) for side in ("width", "height"))
    if width is None or height is None or min(width, height) < 1:
        return None
    return int(width), int(height)


def _object(number: int, item: ElementTree.Element) -> VOCObject:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise ValueError(f"object {number} has no <name>")
    corners = []
    for corner in ("xmin", "ymin", "xmax", "ymax"):
        value = _number(item.findtext(f"bndbox/{corner}"))
        if value is None:
            raise ValueError(f"object {number} ({name}) has no number as <{corner}>")
        corners.append(value)
    difficult = (item.findtext("difficult") or "").strip()
    marked = _number(difficult or "0")
    if marked is None:
        raise ValueError(f"object {number} ({name}) has <difficult>{difficult}</difficult>, which is neither 0 nor 1")
    return VOCObject(name, (corners[0], corners[1], corners[2], corners[3]), bool(marked))


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
