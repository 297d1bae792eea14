"""Damaged image files: detected before training where that is cheap, otherwise when they are decoded."""

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from mmengine.dataset import BaseDataset
from PIL import Image, UnidentifiedImageError

from kd_mm.ops.decoding import other_file
from kd_mm.utils.samples import OneLineError
from kd_mm.utils.suggest import choice, join_first, warn

_DAMAGE = re.compile(
    r"corrupt jpeg data|premature end of jpeg|invalid jpeg file structure|inconsistent progression|libpng error", re.I
)
#: Bytes between the picture and its end marker, which some cameras leave; damage leaves more, or other words.
_STRAY, _FEW = re.compile(r"(\d+) extraneous bytes before marker 0xd9"), 8
_stderr_lock = threading.RLock()


class DamagedImageError(OneLineError):
    """An image that cannot be decoded."""


def file_damage(path: str) -> str:
    """Return what is wrong with an image file, empty if nothing.

    Checks both ends of JPEG and PNG, which takes some 20 us, and decodes only what does not end as it should: OpenCV
    decodes the rest of a truncated file to grey without a warning.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(40)
            if not head:
                return "it is empty"
            file.seek(-min(12, file.seek(0, os.SEEK_END)), os.SEEK_END)
            tail = file.read()
        jpeg = head.startswith(b"\xff\xd8") and tail.endswith(b"\xff\xd9")
        png = head.startswith(b"\x89PNG\r\n\x1a\n") and b"IEND" in tail
        if jpeg or png:
            return ""
        with Image.open(path) as image:
            image.load()
    except UnidentifiedImageError:
        known = cv2.haveImageReader(path)  # e.g. a TIFF of 16 bits in three channels
        if known and cv2.imread(path, cv2.IMREAD_UNCHANGED) is not None:
            return ""
        what = other_file(head)
        return f"it is no image{what and f' but {what}'}"
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and os.path.islink(path):
            return f"a link to {os.readlink(path)}, which is not there"
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def decoding_error(path: str) -> str:
    """Return why an image cannot be decoded completely, empty if it can.

    At an eighth of its size libjpeg reads the complete file and warns of the same damage, in a third of the time.
    """
    reason = file_damage(path)
    if reason:
        return reason
    content = np.fromfile(path, dtype=np.uint8)
    with decoder_warnings() as warnings:
        picture = cv2.imdecode(content, cv2.IMREAD_REDUCED_GRAYSCALE_8)
    return "; ".join(warnings if picture is not None else ["it cannot be decoded", *warnings])


@contextlib.contextmanager
def decoder_warnings() -> Iterator[list[str]]:
    """Collect the decoders' warnings about damage, which libjpeg and libpng write to stderr, within a block.

    Other lines are passed on to stderr at the end of the block.

    Yields:
        The lines, filled at the end. None where another thread collects already, since a process has one stderr.
    """
    warnings: list[str] = []
    if not _stderr_lock.acquire(blocking=False):
        yield warnings
        return
    try:
        with tempfile.TemporaryFile() as file:
            sys.stderr.flush()
            stderr = os.dup(2)
            os.dup2(file.fileno(), 2)
            try:
                yield warnings
            finally:
                sys.stderr.flush()
                os.dup2(stderr, 2)
                os.close(stderr)
                file.seek(0)
                lines = file.read().decode(errors="replace").splitlines(keepends=True)
                warnings[:] = dict.fromkeys(line.strip() for line in lines if _is_damage(line))
                rest = "".join(line for line in lines if not _is_damage(line))
                if rest:
                    os.write(2, rest.encode())
    finally:
        _stderr_lock.release()


def _is_damage(line: str) -> bool:
    stray = _STRAY.search(line)
    return int(stray[1]) > _FEW if stray else _DAMAGE.search(line) is not None


class DamagedImageCheck(BaseDataset):
    """Mixin before a data set of image files with ``img_path``: damaged images stop the run by name, or are skipped.

    OpenCV, the default reader, returns an image for any JPEG; libjpeg's warnings cost nothing to collect. Other
    readers suppress them, so the file is decoded once more for them. Damage that no decoder reports, such as half of
    all changes of a single byte, is not detected.

    Args:
        on_error: What to do about an image that cannot be used: ``"stop"`` (default) before training, naming the first
            few; ``"skip"`` them, counted in one line of the log. Damage that is detected only on decoding stops the
            training at that moment, or the image is replaced by another one; for a test all images are decoded once at
            the start.

    Raises:
        ValueError: An unknown ``on_error``, or unusable images under ``"stop"``.
    """

    listed_in = "the folder"

    def __init__(self, *args: Any, on_error: str = "stop", **kwargs: Any) -> None:
        self.on_error = choice(f"{type(self).__name__}: on_error", on_error, ("stop", "skip"))
        self._reported: set[str] = set()
        super().__init__(*args, **kwargs)

    def report_unusable(self, unusable: list[str], total: int, source: str) -> None:
        """Stop at unusable images, or log them.

        Each entry is an image with the reason; ``total`` and ``source``, a folder or list, are for the message.

        Raises:
            ValueError: There are any, under ``on_error="stop"``.
        """
        if not unusable:
            return
        counted = f"{len(unusable)} of {total} images of {source}"
        if self.on_error == "stop":
            remedy = "repair or rename them"
            if len(unusable) < total:
                remedy += f" or take them out of {self.listed_in}, or on_error='skip' leaves them out"
            raise ValueError(f"{counted} cannot be used: {join_first(unusable)}; {remedy}")
        warn(f"skipped {counted}: {join_first(unusable)}")

    def check_file(self, path: str) -> str:
        """Return what is wrong with an image, empty if nothing; images of a test are decoded for it."""
        return decoding_error(path) if self.test_mode else file_damage(path)

    def prepare_data(self, idx: int) -> Any:
        """Return image ``idx`` after the pipeline; None for one that is skipped.

        Raises:
            DamagedImageError: It cannot be decoded completely, and is not skipped.
        """
        cause, packed = None, None
        try:
            with decoder_warnings() as warnings:
                packed = super().prepare_data(idx)
        except Exception as error:
            cause = error
        # Other libraries than OpenCV do not warn of damage.
        silent = any(getattr(step, "imdecode_backend", "cv2") != "cv2" for step in self.pipeline.transforms)
        if not (warnings or cause or silent):
            return packed
        path = self.get_data_info(idx)["img_path"]
        reason = (decoding_error(path) if os.path.isfile(path) else "") or "; ".join(warnings)
        if not reason:
            if cause is not None:
                raise cause
            return packed
        if self.on_error == "stop" or self.test_mode:
            raise DamagedImageError(
                f"{path}: {reason}; repair it or take it out of {self.listed_in}, or on_error='skip' leaves such out"
            ) from cause
        if path not in self._reported:
            self._reported.add(path)
            warn(f"skipped {path}: {reason}; {len(self._reported)} so far")
        return None
