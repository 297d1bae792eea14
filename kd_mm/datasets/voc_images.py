"""Tells damaged image files from whole ones, cheaply enough to look at every image before training starts."""

import os

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from kd_mm.datasets.decoder_words import decoder_words

#: Endings of image files, in the order in which they are looked for.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".JPG", ".JPEG", ".PNG")
_EXIF_ORIENTATION, _SIDEWAYS = 274, (5, 6, 7, 8)


class DamagedImageError(ValueError):
    """An image that cannot be decoded; keeps its one line on its way out of a data loader's worker.

    torch builds the error anew in the main process, out of the worker's whole traceback.
    """

    def __init__(self, message: str) -> None:
        last = message.strip().splitlines()[-1]
        super().__init__(last.removeprefix(f"{type(self).__module__}.{type(self).__qualname__}: "))


def find_image(folder: str, name: str) -> str | None:
    """Return the path of the image ``name`` (without its ending) in ``folder``, None if there is none."""
    return next((path for suffix in SUFFIXES if os.path.isfile(path := os.path.join(folder, name + suffix))), None)


def damage(path: str) -> str:
    """Return what is wrong with an image file, empty if nothing.

    Looks at both ends of JPEG and PNG, which takes some 20 us, and decodes only what does not end as it should: OpenCV
    decodes the rest of a truncated file to grey without a word.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            if not head:
                return "it is empty"
            file.seek(-min(12, file.seek(0, os.SEEK_END)), os.SEEK_END)
            tail = file.read()
        jpeg = head.startswith(b"\xff\xd8") and tail.endswith(b"\xff\xd9")
        png = head == b"\x89PNG\r\n\x1a\n" and b"IEND" in tail
        if jpeg or png:
            return ""
        with Image.open(path) as image:
            image.load()
    except UnidentifiedImageError:
        return "it is no image"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def undecodable(path: str) -> str:
    """Return why an image cannot be decoded whole, empty if it can.

    At an eighth of its size libjpeg reads all of the file and warns of the same damage, in a third of the time.
    """
    reason = damage(path)
    if reason:
        return reason
    content = np.fromfile(path, dtype=np.uint8)
    with decoder_words() as heard:
        picture = cv2.imdecode(content, cv2.IMREAD_REDUCED_GRAYSCALE_8)
    return "; ".join(heard if picture is not None else ["it cannot be decoded", *heard])


def image_size(path: str) -> tuple[int, int]:
    """Return width and height in pixels, as the image is shown: a camera's orientation mark is heeded.

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
