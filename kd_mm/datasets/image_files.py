"""Image files: their endings, names and headers."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any
from unicodedata import normalize

import cv2
from mmcv.transforms import LoadImageFromFile
from PIL import GifImagePlugin, Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

#: File endings of images in lower case, in the order in which they are preferred.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_PAGED = (GifImagePlugin.GifImageFile, TiffImagePlugin.TiffImageFile, WebPImagePlugin.WebPImageFile)
_EXIF_ORIENTATION, _SIDEWAYS, _BITS_OF_TIFF = 274, (5, 6, 7, 8), 258


def is_image(name: str) -> bool:
    """Return whether a file name has the ending of an image, in upper or lower case."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def without_suffix(name: str) -> str:
    """Return a file name without the ending of an image."""
    return os.path.splitext(name)[0] if is_image(name) else name


class ImageFolder:
    """The images, or other files, of a folder and those below it by name, whatever the case of their ending.

    Letters with accents may be one character or two in a name: file systems and editors differ.

    Args:
        root: The folder.

    Attributes:
        several: Names that were found with several endings, and the file of each that is read.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.several: dict[str, str] = {}
        self._listed: dict[str, dict[str, list[str]]] = {}
        self._folded: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str) -> str | None:
        """Return the path of an image.

        Args:
            name: Relative to the folder, with or without ending.

        Returns:
            The path, of the preferred ending where there are several; None where there is no image of this name.
        """
        for candidate in (name, without_suffix(name)):
            folder, stem = os.path.split(candidate)
            files = [file for file in self._files(folder).get(normalize("NFC", stem), ()) if is_image(file)]
            if files:
                best = min(files, key=lambda file: IMAGE_SUFFIXES.index(os.path.splitext(file)[1].lower()))
                if len(files) > 1:
                    self.several[candidate] = best
                return os.path.join(self.root, folder, best)
        return None

    def missing(self, name: str) -> str:
        """Return why there is no image of a name: what else there is, or that there is nothing."""
        folder, stem = os.path.split(without_suffix(name))
        path = os.path.join(self.root, folder, stem)
        others = self._files(folder).get(normalize("NFC", stem))
        if others:
            is_folder = os.path.isdir(os.path.join(self.root, folder, others[0]))
            what = "is a folder" if is_folder else f"is not read: convert it to one of {', '.join(IMAGE_SUFFIXES)}"
            return f"{os.path.join(self.root, folder, others[0])} {what}"
        alike = self.alike(name)
        hint = f", but {os.path.basename(alike)} is there: write it alike" if alike else ""
        return f"there is no {path}.jpg, nor with another ending{hint}"

    def alike(self, name: str) -> str | None:
        """Return the path of an image whose name differs in the case of its letters and its ending alone."""
        return next((file for file in self.files_named(without_suffix(name)) if is_image(file)), None)

    def files_named(self, name: str) -> list[str]:
        """Return the paths of all files of a name, whatever the case of its letters and their endings."""
        folder, stem = os.path.split(name)
        if folder not in self._folded:
            self._folded[folder] = {}
            for other, files in self._files(folder).items():
                self._folded[folder].setdefault(without_suffix(other).casefold(), []).extend(files)
        files = self._folded[folder].get(normalize("NFC", stem).casefold(), [])
        return [os.path.join(self.root, folder, file) for file in files]

    def elsewhere(self, name: str) -> str | None:
        """Return the path of a file of a name, whatever its case, ending and folder; None where there is none."""
        found = self.files_named(name)
        for folder in () if found else self._folders:
            found = found or self.files_named(os.path.join(folder, os.path.basename(name)))
        return next(iter(found), None)

    @cached_property
    def _folders(self) -> list[str]:
        with os.scandir(self.root) as entries:
            return ["", *sorted(entry.name for entry in entries if entry.is_dir())]

    def _files(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._listed:
            listed: dict[str, list[str]] = {}
            try:
                names = sorted(os.listdir(os.path.join(self.root, folder)))
            except OSError:
                names = []
            for name in names:
                listed.setdefault(normalize("NFC", os.path.splitext(name)[0]), []).append(name)
            self._listed[folder] = listed
        return self._listed[folder]


Image.MAX_IMAGE_PIXELS = None  # scans and satellite images are larger, and headers alone are read here


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an image file says.

    Attributes:
        size: Width and height in pixels, as they are stored.
        sideways: Whether the EXIF orientation turns the image by a quarter.
        bits: Bits of one channel of a pixel.
        pages: Images in a TIFF file, or in an animation.
    """

    size: tuple[int, int]
    sideways: bool
    bits: int
    pages: int = 1


def read_header(path: str) -> ImageHeader:
    """Read the header of an image file, once while the file does not change.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        return _read_header(path, os.stat(path).st_mtime_ns)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"the image's size cannot be read ({' '.join(str(error).split())})") from error


@cache
def _read_header(path: str, modified: int) -> ImageHeader:
    try:
        with Image.open(path) as image:
            bits, pages = 16 if image.mode.startswith("I;16") else 8, 1
            if isinstance(image, _PAGED):
                pages = image.n_frames
            if image.format == "PNG":
                with open(path, "rb") as file:
                    bits = file.read(25)[24]  # of the header chunk; Pillow gives 16 bits of a colour image as 8
            elif isinstance(image, TiffImagePlugin.TiffImageFile):
                bits = max(image.tag_v2.get(_BITS_OF_TIFF, (bits,)))
            has_exif = image.format != "PNG" or "exif" in image.info  # else Pillow decodes a PNG to look for it
            orientation = image.getexif().get(_EXIF_ORIENTATION) if has_exif else None
            return ImageHeader(image.size, orientation in _SIDEWAYS, bits, pages)
    except UnidentifiedImageError:
        pixels = cv2.imread(path, cv2.IMREAD_UNCHANGED)  # e.g. a TIFF of 16 bits in three channels
        if pixels is None:
            raise
        return ImageHeader((pixels.shape[1], pixels.shape[0]), False, 8 * pixels.itemsize)


def turning(path: str) -> str:
    """Return what to do about an image whose annotation has its width for its height."""
    sideways = read_header(path).sideways
    if sideways and path.lower().endswith((".tif", ".tiff")):
        return "decoders turn a TIFF by its orientation in any case: remove that tag from photographs labelled unturned"
    if sideways:
        return "photographs labelled unturned are read so by LoadImageFromFile(color_type='color_ignore_orientation')"
    return "their width and height are exchanged, which 'keep' is for if the boxes fit the images"


class DecodedSize:
    """Gives width and height at which a pipeline decodes an image, from its header.

    Whether a decoder applies the EXIF orientation depends on the decoder, its options and the format: the first image
    of each format that the orientation turns is decoded to find out.

    Args:
        transforms: The steps of the pipeline.
    """

    def __init__(self, transforms: Iterable[Any]) -> None:
        self.loader = next((step for step in transforms if isinstance(step, LoadImageFromFile)), LoadImageFromFile())
        self._turned: dict[str, bool] = {}

    def __call__(self, path: str) -> tuple[int, int]:
        """Return the size of one image.

        Raises:
            ValueError: Its header cannot be read.
        """
        header = read_header(path)
        width, height = header.size
        if not header.sideways:
            return width, height
        suffix = os.path.splitext(path)[1].lower()
        if suffix not in self._turned and width != height:
            self._turned[suffix] = self.loader({"img_path": path})["img"].shape[:2] == (width, height)
        return (height, width) if self._turned.get(suffix) else (width, height)
