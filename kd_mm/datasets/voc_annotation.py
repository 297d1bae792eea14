"""Annotation files in Pascal VOC's format: parsing one, and reporting the problems of a split."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize
from xml.etree import ElementTree

from kd_mm.utils.suggest import join_first

_DECLARED = re.compile(rb"^<\?xml[^>]*?encoding=[\"']([\w.-]+)[\"'][^>]*\?>")
#: Encodings by declared ones: the newer standard contains what files declared as the old ones hold, and a declaration
#: that can be read byte by byte is not of UTF-16.
_MEANT = {"gb2312": "gb18030", "gbk": "gb18030", "utf-16": "utf-8", "unicode": "utf-8"}
_YES, _NO = ("true", "yes", "y", "t", "difficult"), ("", "false", "no", "n", "f")


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
        unclear: What ``<difficult>`` holds where that is neither yes nor no, one entry for each object.
        filename: The image that the file names; empty where it names none.
    """

    size: tuple[int, int] | None
    objects: list[VOCObject]
    unclear: list[str]
    filename: str = ""


def parse_annotation(content: bytes) -> VOCAnnotation:
    """Parse the bytes of an annotation file; elements that training does not use, and namespaces, are ignored.

    Raises:
        ValueError: One line on what is wrong, without the name of the file.
    """
    root = _parse(content.lstrip())
    if "}" in root.tag:
        for element in root.iter():
            element.tag = str(element.tag).rpartition("}")[2]
    if root.tag.lower() != "annotation":
        raise ValueError(f"its outermost element is <{root.tag}>, not <annotation>")
    objects, unclear = [], []
    for number, item in enumerate((part for part in root.iter() if part.tag.lower() == "object"), 1):
        word = _difficult(item)
        objects.append(_object(number, item, word in _YES))
        if word not in _YES + _NO:
            unclear.append(word)
    return VOCAnnotation(_size(root), objects, unclear, (root.findtext("filename") or "").strip())


class AnnotationReport:
    """Problems found in the annotations of one split, each kind in one line of the log.

    Attributes:
        unusable: One entry an image that cannot be used, with the reason.
        sizes: One entry an image of another size than its annotation has, with both.
        turned: What to do about those that are as wide as the annotation says they are high, and the other way round;
            empty where there are none.
        boxes: Names of images by kind of problem, one entry for each box.
        known: Objects of the class list, by class.
        difficult: How many of them are marked as difficult.
        foreign: Objects of other classes, by class.
        unclear: Words of ``<difficult>`` that are neither yes nor no.
        others: One entry an annotation that names another image of the folder, with both.
        largest: The largest coordinate of a box in any file.
    """

    def __init__(self) -> None:
        self.unusable: list[str] = []
        self.sizes: list[str] = []
        self.turned = ""
        self.boxes: dict[str, list[str]] = {}
        self.known: Counter[str] = Counter()
        self.difficult = 0
        self.foreign: Counter[str] = Counter()
        self.unclear: Counter[str] = Counter()
        self.others: list[str] = []
        self.largest = 0.0

    def box(self, what: str, image: str) -> None:
        """Count a box with a problem."""
        self.boxes.setdefault(what, []).append(image)

    def size_lines(self, lists: Path, listed: int, policy: str, any_left: bool) -> list[str]:
        """Return one line on the images of another size than their annotation has, if there are any.

        Args:
            lists: The list of images.
            listed: Their number.
            policy: ``size_mismatch`` of the data set.
            any_left: Whether it leaves any image.

        Raises:
            ValueError: There are any under ``"stop"``, or the policy leaves no image.
        """
        if not self.sizes:
            return []
        counted = (
            f"{len(self.sizes)} of {listed} images are of another size than their <size>: {join_first(self.sizes)}"
        )
        if policy == "stop" or not any_left:
            raise ValueError(
                f"{lists}: {counted}; size_mismatch='rescale' of the data set scales the boxes from <size> to the "
                "image, 'skip' leaves these images out, 'keep' takes the boxes as they are"
                + (self.turned and f"; {self.turned}")
            )
        done = {"rescale": "their boxes are scaled", "skip": "they are left out", "keep": "their boxes are kept"}
        return [f"{counted}; {done[policy]}"]

    def require_boxes(self, lists: Path, classes: list[str], boxes: list[list[float]]) -> None:
        """Stop where nothing can be learned from the annotations.

        Args:
            lists: The list of images.
            classes: The class list.
            boxes: The boxes that are used, ``[x1, y1, x2, y2]``.

        Raises:
            ValueError: No object is of the class list, one of its names is written otherwise in all annotations, all
                objects are difficult, or no box has an area.
        """
        if self.foreign and not self.known:
            names = ", ".join(name for name, _ in self.foreign.most_common())
            raise ValueError(
                f"no object in the annotations of {lists} is of the class list: the annotations have {names}; the "
                f"class list is {', '.join(classes)}. Set metainfo=dict(classes=(...)) of every data set and "
                "num_classes of the model"
            )
        for name in self.foreign:
            listed = next((each for each in classes if each.casefold() == name.casefold()), None)
            if listed and not self.known[listed]:
                raise ValueError(
                    f"the class list names {listed!r}, the annotations of {lists} {name!r}: write it alike in both"
                )
        if self.known and self.difficult == self.known.total():
            raise ValueError(
                f"each of the {self.difficult} objects of {lists} is marked by <difficult>, and such objects are "
                "neither learned nor scored: set it to 0 in the annotations"
            )
        if self.known and not any(right > left and bottom > top for left, top, right, bottom in boxes):
            what = f" (their numbers reach {self.largest:g}: are they of images of another size?)"
            if self.largest <= 1:
                what = f" (their largest number is {self.largest:g}: fractions of the image?)"
            raise ValueError(
                f"none of the {self.known.total()} boxes of {lists} has an area inside of its image{what}: <bndbox> "
                "holds pixels, counted from 1"
            )

    def lines(self) -> list[str]:
        """Return one line for each kind of problem, without the unusable images and the sizes."""
        lines = []
        for what, images in self.boxes.items():
            lines.append(f"boxes that {what}: {len(images)}, in {join_first(sorted(set(images)))}")
        if self.foreign:
            lines.append(f"objects of classes that are not in the class list are left out: {_counted(self.foreign)}")
        if self.difficult > self.known.total() / 2:
            lines.append(
                f"{self.difficult} of {self.known.total()} objects are marked by <difficult>, and so neither learned "
                "nor scored"
            )
        if self.others:
            lines.append(
                f"annotations whose <filename> is another image of the folder: {len(self.others)}, "
                f"{join_first(self.others)}: were they exchanged?"
            )
        if self.unclear:
            lines.append(f"<difficult> that is neither yes nor no is read as no: {_counted(self.unclear)}")
        return lines


def _counted(counts: Counter[str]) -> str:
    return join_first([f"{name} ({count})" for name, count in counts.most_common()])


def _parse(content: bytes) -> ElementTree.Element:
    """Parse XML of any encoding that Python knows: the parser itself knows few."""
    if not content:
        raise ValueError("it is empty")
    declared = _DECLARED.match(content)
    try:
        if declared and declared[1].lower() != b"utf-8":
            encoding = declared[1].decode().lower()
            encoding = _MEANT.get(encoding, encoding)
            return ElementTree.fromstring(content[declared.end() :].decode(encoding))
        return ElementTree.fromstring(content)
    except UnicodeDecodeError as error:
        name = declared[1].decode() if declared else error.encoding
        hint = "declare UTF-8 if it is that"
        raise ValueError(f"its text is not of the encoding {name} that it declares: {hint}") from error
    except LookupError as error:
        raise ValueError(f"its encoding is not known ({error}): save it as UTF-8") from error
    except (ElementTree.ParseError, ValueError) as error:
        if not declared and not _is_utf8(content):
            raise ValueError("its text is not UTF-8: save it so, or declare its encoding in the first line") from error
        raise ValueError(f"it is not XML ({error})") from error


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    width, height = (_number(root.findtext(f"size/{side}")) for side in ("width", "height"))
    if width is None or height is None or min(width, height) < 1:
        return None
    return int(width), int(height)


def plain_name(text: str) -> str:
    """Return the name of a class with single blanks and composed letters, as names that look alike are one."""
    return normalize("NFC", " ".join(text.split()))


def _object(number: int, item: ElementTree.Element, difficult: bool) -> VOCObject:
    name = plain_name(item.findtext("name") or "")
    if not name:
        raise ValueError(f"object {number} has no <name>")
    boxes = item.findall("bndbox")
    if len(boxes) > 1:
        raise ValueError(f"object {number} ({name}) has {len(boxes)} <bndbox>: give each box an <object>")
    if not boxes:
        others = ", ".join(f"<{part.tag}>" for part in item if len(part))
        raise ValueError(f"object {number} ({name}) has no <bndbox>" + (f", but {others}" if others else ""))
    written = {corner.tag.lower(): corner.text for corner in boxes[0]}
    corners = []
    for corner in ("xmin", "ymin", "xmax", "ymax"):
        value = _number(written.get(corner))
        if value is None:
            there = ", ".join(f"<{tag}>" for tag in written)
            raise ValueError(f"object {number} ({name}) has no number as <{corner}> (there are {there})")
        corners.append(value)
    return VOCObject(name, (corners[0], corners[1], corners[2], corners[3]), difficult)


def _difficult(item: ElementTree.Element) -> str:
    """Return the word of ``<difficult>`` in lower case; numbers become one of the words."""
    word = (item.findtext("difficult") or "").strip().lower()
    number = _number(word)
    return word if number is None or number < 0 else (_YES if number else _NO)[0]


def _number(text: str | None) -> float | None:
    try:
        value = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
