"""Annotation files in Pascal VOC's format: parsing one, and reporting the problems of a split."""

import math
from collections import Counter
from dataclasses import dataclass
from xml.etree import ElementTree

from PIL import Image

from kd_mm.datasets.utils import join_first

_EXIF_ORIENTATION, _SIDEWAYS = 274, (5, 6, 7, 8)


@dataclass(frozen=True)
class VOCObject:
    """One object of an annotation file.

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
        size: Width and height in pixels; None where the file lacks positive numbers.
        objects: The objects, in the order of the file.
    """

    size: tuple[int, int] | None
    objects: list[VOCObject]


def parse_annotation(content: bytes) -> VOCAnnotation:
    """Parse the bytes of an annotation file; elements that training does not use are ignored.

    Raises:
        ValueError: One line on what is wrong, without the name of the file.
    """
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"it is not XML ({error})") from error
    if root.tag != "annotation":
        raise ValueError(f"its outermost element is <{root.tag}>, not <annotation>")
    return VOCAnnotation(_size(root), [_object(number, item) for number, item in enumerate(root.findall("object"), 1)])


def image_size(path: str) -> tuple[int, int]:
    """Return width and height of an image in pixels, with its EXIF orientation applied.

    Raises:
        ValueError: The header cannot be read.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            sideways = image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the image's size cannot be read ({' '.join(str(error).split())})") from error
    return (height, width) if sideways else (width, height)


class AnnotationReport:
    """Problems found in the annotations of one split, each kind in one line of the log.

    Attributes:
        unusable: One entry an image that cannot be used, with the reason.
        boxes: Names of images by kind of problem, one entry for each box.
        known: Objects of the class list, by class.
        foreign: Objects of other classes, by class.
    """

    def __init__(self) -> None:
        self.unusable: list[str] = []
        self.boxes: dict[str, list[str]] = {}
        self.known: Counter[str] = Counter()
        self.foreign: Counter[str] = Counter()

    def box(self, what: str, image: str) -> None:
        """Count a box with a problem."""
        self.boxes.setdefault(what, []).append(image)

    def lines(self) -> list[str]:
        """Return one line for each kind of problem, without the unusable images."""
        lines = []
        for what, images in self.boxes.items():
            lines.append(f"boxes that {what}: {len(images)}, in {join_first(sorted(set(images)))}")
        if self.foreign:
            counted = [f"{name} ({count})" for name, count in self.foreign.most_common()]
            lines.append(f"objects of classes that are not in the class list are left out: {join_first(counted)}")
        return lines


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
