"""What data sets of image files do about an image whose damage shows only when it is decoded."""

from __future__ import annotations

import logging
import os
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from kd_mm.datasets.decoder_words import decoder_words
from kd_mm.datasets.voc_images import DamagedImageError, damage, undecodable


class WatchedImages(BaseDataset):
    """Mixin before a data set of image files with ``img_path``; a damaged one stops the run by name, or is skipped.

    OpenCV, which reads the images unless the pipeline says otherwise, makes a picture of whatever it finds in a JPEG;
    libjpeg's warnings are heard at no cost. Other readers keep them back, so the file is decoded once more for them.
    What no decoder can tell, such as half of all changes of a single byte, stays unfound.

    Attributes:
        on_error: ``"stop"`` or ``"skip"``.
        listed_in: Where an image is taken out, for the message.
    """

    on_error: str
    listed_in = "its folder"
    _reported: set[str]

    def file_damage(self, path: str) -> str:
        """Return what is wrong with an image, empty if nothing is, before training starts.

        What is tested on is decoded whole: no damage there may come up after hours, or be replaced by another image.
        """
        return undecodable(path) if self.test_mode else damage(path)

    def prepare_data(self, idx: int) -> Any:
        """Return image ``idx`` as the pipeline leaves it; None for one that is skipped.

        Raises:
            DamagedImageError: It cannot be decoded whole, and is not skipped.
        """
        cause, packed = None, None
        try:
            with decoder_words() as heard:
                packed = super().prepare_data(idx)
        except Exception as error:
            cause = error
        if not (heard or cause or self._deaf):
            return packed
        path = self.get_data_info(idx)["img_path"]
        reason = (undecodable(path) if os.path.isfile(path) else "") or "; ".join(heard)
        if not reason:
            if cause is not None:
                raise cause
            return packed
        if self.on_error == "stop" or self.test_mode:
            raise DamagedImageError(
                f"{path}: {reason}; mend it or take it out of {self.listed_in}, or on_error='skip' leaves such out"
            ) from cause
        if path not in self._reported:
            self._reported.add(path)
            print_log(f"skipped {path}: {reason}; {len(self._reported)} so far", "current", logging.WARNING)
        return None

    @property
    def _deaf(self) -> bool:
        """Whether the pipeline reads images by a library that says nothing of what it could not make out."""
        return any(getattr(step, "imdecode_backend", "cv2") != "cv2" for step in self.pipeline.transforms)
