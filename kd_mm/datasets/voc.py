"""Pascal VOC, or one's own folder in its layout, for detection."""

import contextlib
import difflib
import io
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

from mmengine.fileio import get, list_from_file
from mmengine.logging import print_log

from kd_mm.datasets.damaged_images import DamagedImageCheck
from kd_mm.datasets.utils import IMAGE_SUFFIXES, join_first, require_layout
from kd_mm.datasets.voc_annotation import AnnotationReport, VOCObject, image_size, parse_annotation
from kd_mm.registry import DATASETS

with contextlib.redirect_stdout(io.StringIO()):  # it prints which optional packages it does without
    from mmdet.datasets import VOCDataset as UpstreamVOCDataset

_SOURCE = "http://host.robots.ox.ac.uk/pascal/VOC/"
_NO_AREA = {True: "have no area and stay in the ground truth", False: "have no area and are dropped for training"}
_OUTSIDE = "reach out of the image and are clipped to it"
_SWAPPED = "have their corners swapped and are sorted"


@DATASETS.register_module()
class VOCDataset(DamagedImageCheck, UpstreamVOCDataset):
    """mmdet's ``VOCDataset`` for any folder in the layout of Pascal VOC, with clear errors.

    The folder ``data_root/sub_data_root`` holds ``Annotations``, ``JPEGImages`` and usually ``ImageSets``; its name is
    free. Class names other than the official ones come with ``metainfo=dict(classes=("cat", "dog"))``. Beyond upstream:
    images may also be PNG, BMP or WebP; fractional coordinates are kept; a missing or empty ``<size>`` is read from the
    image; boxes are clipped to the image; a box without area is dropped for training, where the logarithm of its width
    would be infinite, and stays in the ground truth of a test, as in the official development kit. Odd boxes and
    objects of other classes are counted in one line of the log each.

    Args:
        on_error: ``"stop"`` or ``"skip"`` at images that are missing, damaged or listed twice, or whose annotation is
            missing or damaged, see :class:`~kd_mm.datasets.damaged_images.DamagedImageCheck`.
        **kwargs: As for mmdet's ``VOCDataset`` (``data_root``, ``ann_file``, ``data_prefix=dict(sub_data_root=...)``,
            ``img_subdir``, ``ann_subdir``, ``metainfo``, ``filter_cfg``, ``pipeline``, ``test_mode`` ...).

    Raises:
        FileNotFoundError: The folder or the list of images does not exist.
        ValueError: An unknown ``on_error``, an unfit class list, an empty list of images, unusable images under
            ``"stop"``, no object of any class of the list, or no image left by ``filter_cfg``.
    """

    @classmethod
    def _load_metainfo(cls, metainfo: Any = None) -> dict[str, Any]:
        loaded: dict[str, Any] = super()._load_metainfo(metainfo)
        classes = loaded["classes"]
        if isinstance(classes, str):
            raise ValueError(f"VOCDataset: classes must be a tuple of names; one class is written ({classes!r},)")
        twice = sorted({name for name in classes if list(classes).count(name) > 1})
        if not classes or twice:
            raise ValueError(f"VOCDataset: classes {'names twice: ' + ', '.join(twice) if twice else 'is empty'}")
        if tuple(classes) != tuple(cls.METAINFO["classes"]) and "palette" not in (metainfo or {}):
            loaded.pop("palette", None)  # twenty colours for the official classes
        return loaded

    @property
    def sub_data_root(self) -> str:
        """Folder of the images and annotations; ``data_root`` itself where ``data_prefix`` names no other."""
        return str(self.data_prefix.get("sub_data_root") or self.data_root)

    @property
    def listed_in(self) -> str:  # type: ignore[override]
        """The list of images."""
        return str(self.ann_file)

    @property
    def _local(self) -> bool:
        return self.backend_args is None and "://" not in self.sub_data_root

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return one dict an image: ``img_path``, ``img_id``, ``xml_path``, ``height``, ``width``, ``instances``."""
        self.cat2label = {name: label for label, name in enumerate(self._metainfo["classes"])}
        if self._local:
            self._require_folder()
        self._report = AnnotationReport()
        names = self._read_split()
        samples = []
        for name in dict.fromkeys(names):
            try:
                samples.append(self.parse_data_info({"img_id": name}))
            except (OSError, ValueError) as error:
                self._report.unusable.append(f"{name} ({error})")
        repeated = [(name, times) for name, times in Counter(names).items() if times > 1]
        self._report.unusable += [f"{name} (it is listed {times} times)" for name, times in repeated]
        self._conclude(len(names), len(samples))
        return samples

    def parse_data_info(self, img_info: dict[str, Any]) -> dict[str, Any]:
        """Read one annotation file and check its image.

        Args:
            img_info: With ``img_id``.

        Raises:
            ValueError: What is wrong with either file, in one line.
        """
        name = img_info["img_id"]
        xml_path = os.path.join(self.sub_data_root, self.ann_subdir, f"{name}.xml")
        img_path = self._find_image(name)
        if self._local and not os.path.isfile(xml_path):
            raise ValueError(f"there is no {xml_path}")
        content = Path(xml_path).read_bytes() if self._local else get(xml_path, backend_args=self.backend_args)
        try:
            annotation = parse_annotation(content)
        except ValueError as error:
            raise ValueError(f"{xml_path}: {error}") from error
        size = annotation.size
        objects = [item for item in annotation.objects if item.name in self.cat2label]
        if self._local and (size is None or any(_reaches_out(item, size) for item in objects)):
            size = image_size(img_path)
        width, height = size or (0, 0)
        return {
            "img_path": img_path,
            "img_id": name,
            "xml_path": xml_path,
            "height": height,
            "width": width,
            "instances": self._instances(name, annotation.objects, size),
        }

    def filter_data(self) -> list[dict[str, Any]]:
        """Return the images that ``filter_cfg`` lets through (all of them in test mode).

        Raises:
            ValueError: There is none.
        """
        kept: list[dict[str, Any]] = super().filter_data()
        if not kept:
            raise ValueError(
                f"{self.ann_file}: none of its {len(self.data_list)} images is left by filter_cfg={self.filter_cfg}: "
                "they have no object of the class list or are too small"
            )
        return kept

    def _require_folder(self) -> None:
        folder = Path(self.sub_data_root)
        year = next((year for year in ("2007", "2012") if folder.name == f"VOC{year}"), "")
        source = (
            f"{_SOURCE}voc{year}/"
            if year
            else f"{_SOURCE} (or make your own in this layout, with img_subdir and ann_subdir)"
        )
        require_layout("Pascal VOC", folder, (f"{self.ann_subdir}/", f"{self.img_subdir}/"), source)

    def _read_split(self) -> list[str]:
        """Return the names of the images, in the order of the list."""
        path = Path(self.ann_file)
        if self._local and not path.is_file():
            lists = sorted(item.name for item in path.parent.glob("*.txt"))
            near = difflib.get_close_matches(path.name, lists, n=1)
            raise FileNotFoundError(
                f"list of images not found: looked for {path.absolute()}{f', did you mean {near[0]}?' if near else ''} "
                f"(there {f'are: {join_first(lists)}' if lists else f'is no *.txt in {path.parent.absolute()}'}); set "
                "ann_file to a text file with one image name a line"
            )
        lines = list_from_file(self.ann_file, backend_args=self.backend_args)
        names = [_without_suffix(line.strip()) for line in lines if line.strip()]
        if not names:
            raise ValueError(f"{path.absolute()} is empty: it should hold one image name a line")
        return names

    def _find_image(self, name: str) -> str:
        folder = os.path.join(self.sub_data_root, self.img_subdir)
        if not self._local:
            return os.path.join(folder, f"{name}.jpg")
        paths = (os.path.join(folder, name + suffix) for suffix in IMAGE_SUFFIXES)
        path = next((path for path in paths if os.path.isfile(path)), None)
        if path is None:
            raise ValueError(f"there is no {os.path.join(folder, name)}.jpg, nor with another ending")
        if reason := self.check_file(path):
            raise ValueError(f"{path}: {reason}")
        return path

    def _instances(self, image: str, objects: list[VOCObject], size: tuple[int, int] | None) -> list[dict[str, Any]]:
        """Return the objects of the class list as mmdet wants them."""
        instances = []
        for item in objects:
            label = self.cat2label.get(item.name)
            if label is None:
                self._report.foreign[item.name] += 1
                continue
            self._report.known[item.name] += 1
            box = self._box(image, item, size)
            width, height = box[2] - box[0], box[3] - box[1]
            if min(width, height) <= 0:
                self._report.box(_NO_AREA[self.test_mode], image)
                if not self.test_mode:
                    continue
            small = self.bbox_min_size is not None and min(width, height) < self.bbox_min_size
            instances.append({"bbox": box, "bbox_label": label, "ignore_flag": int(item.difficult or small)})
        return instances

    def _box(self, image: str, item: VOCObject, size: tuple[int, int] | None) -> list[float]:
        """Return ``[x1, y1, x2, y2]`` from 0, in order, inside of the image."""
        left, top, right, bottom = (corner - 1 for corner in item.box)
        if left > right or top > bottom:
            self._report.box(_SWAPPED, image)
            left, right, top, bottom = min(left, right), max(left, right), min(top, bottom), max(top, bottom)
        if size is None:
            return [left, top, right, bottom]
        if _reaches_out(item, size):
            self._report.box(_OUTSIDE, image)
        return [min(max(x, 0.0), limit) for x, limit in zip((left, top, right, bottom), (*size, *size), strict=True)]

    def _conclude(self, listed: int, usable: int) -> None:
        """Log the problems of the annotations; stop at those that leave nothing to train on."""
        found, lists = self._report, Path(self.ann_file).absolute()
        if found.unusable and not usable and self.on_error == "skip":
            raise ValueError(f"none of the {listed} images of {lists} can be used: {join_first(found.unusable)}")
        self.report_unusable(found.unusable, listed, str(lists))
        if found.foreign and not found.known:
            names = ", ".join(name for name, _ in found.foreign.most_common())
            raise ValueError(
                f"no object in the annotations of {lists} is of the class list: the annotations have {names}; the "
                f"class list is {', '.join(self.cat2label)}. Set metainfo=dict(classes=(...)) of every data set and "
                "num_classes of the model"
            )
        for line in found.lines():
            print_log(f"{lists}: {line}", "current", logging.WARNING)


def _without_suffix(name: str) -> str:
    """Return the name of an image without the ending of an image file, which some lists have."""
    return next((name.removesuffix(suffix) for suffix in IMAGE_SUFFIXES if name.endswith(suffix)), name)


def _reaches_out(item: VOCObject, size: tuple[int, int]) -> bool:
    """Return whether a box leaves its image by more than the pixel that counting from 0 or 1 makes."""
    (x1, y1, x2, y2), (width, height) = item.box, size
    return min(x1, y1, x2, y2) < 0 or max(x1, x2) > width + 1 or max(y1, y2) > height + 1
