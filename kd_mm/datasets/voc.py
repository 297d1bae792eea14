"""Pascal VOC, or one's own folder in its layout, for detection."""

import difflib
import os
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any
from unicodedata import normalize

from mmdet.datasets import VOCDataset as UpstreamVOCDataset
from mmengine.fileio import get

from kd_mm.datasets.damaged_images import DamagedImageCheck
from kd_mm.datasets.image_files import DecodedSize, ImageFolder, turning, without_suffix
from kd_mm.datasets.text_files import names_in_list, read_lines, without_marks
from kd_mm.datasets.utils import require_layout
from kd_mm.datasets.voc_annotation import AnnotationReport, VOCAnnotation, VOCObject, parse_annotation, plain_name
from kd_mm.registry import DATASETS
from kd_mm.utils.suggest import choice, join_first, warn

_SOURCE = "http://host.robots.ox.ac.uk/pascal/VOC/ (or make your own in this layout, with img_subdir and ann_subdir)"
_NO_AREA = {True: "have no area and stay in the ground truth", False: "have no area and are dropped for training"}
_FRACTIONS = " (fractions of the image? <bndbox> holds pixels)"
_OUTSIDE = "reach out of the image and are clipped to it"
_SWAPPED = "have their corners swapped and are sorted (written as x, y, width, height?)"
_POLICIES = ("stop", "rescale", "skip", "keep")


@DATASETS.register_module()
class VOCDataset(DamagedImageCheck, UpstreamVOCDataset):
    """mmdet's ``VOCDataset`` for any folder in the layout of Pascal VOC, with clear errors.

    The folder ``data_root/sub_data_root`` holds ``Annotations``, ``JPEGImages`` and usually ``ImageSets``; its name is
    free. Class names other than the official ones come with ``metainfo=dict(classes=("cat", "dog"))``. Beyond upstream:
    images may also be PNG, BMP, WebP or TIFF; lists may be UTF-8 or UTF-16, with endings, folders or further columns;
    fractional coordinates are kept; width and height are those that the pipeline decodes, EXIF orientation included,
    not those of ``<size>``; boxes are clipped to the image; a box without area is dropped for training, where the
    logarithm of its width would be infinite, and stays in the ground truth of a test, as in the official development
    kit. Odd boxes and objects of other classes are counted in one line of the log each.

    Args:
        size_mismatch: What to do about images of another size than their ``<size>``: ``"stop"`` (default) before
            training; ``"rescale"`` the boxes from ``<size>`` to the image; ``"skip"`` these images; ``"keep"`` the
            boxes as they are. Counted in one line with both sizes.
        negatives: Whether an image without an annotation file, or with an empty one, shows background alone; by default
            it cannot be used.
        on_error: ``"stop"`` or ``"skip"`` at images that are missing, damaged or listed twice, or whose annotation is
            missing or damaged, see :class:`~kd_mm.datasets.damaged_images.DamagedImageCheck`.
        **kwargs: As for mmdet's ``VOCDataset`` (``data_root``, ``ann_file``, ``data_prefix=dict(sub_data_root=...)``,
            ``img_subdir``, ``ann_subdir``, ``metainfo``, ``filter_cfg``, ``pipeline``, ``test_mode`` ...).

    Raises:
        FileNotFoundError: The folder or the list of images does not exist.
        ValueError: An unknown ``on_error`` or ``size_mismatch``, an unfit class list, an empty list of images, unusable
            images or other sizes under ``"stop"``, no object of any class of the list, no box with an area, or no image
            left by ``filter_cfg``.
    """

    def __init__(self, *args: Any, size_mismatch: str = "stop", negatives: bool = False, **kwargs: Any) -> None:
        self.size_mismatch = choice("VOCDataset: size_mismatch", size_mismatch, _POLICIES)
        self.negatives = negatives
        super().__init__(*args, **kwargs)

    @classmethod
    def _load_metainfo(cls, metainfo: Any = None) -> dict[str, Any]:
        loaded: dict[str, Any] = super()._load_metainfo(metainfo)
        classes = loaded["classes"]
        if isinstance(classes, str):
            raise ValueError(f"VOCDataset: classes must be a tuple of names; one class is written ({classes!r},)")
        classes = loaded["classes"] = type(classes)(map(plain_name, classes))
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

    @cached_property
    def _images(self) -> ImageFolder:
        return ImageFolder(os.path.join(self.sub_data_root, self.img_subdir))

    @cached_property
    def _annotations(self) -> ImageFolder:
        return ImageFolder(os.path.join(self.sub_data_root, self.ann_subdir))

    @cached_property
    def _decoded_size(self) -> DecodedSize:
        return DecodedSize(self.pipeline.transforms)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return one dict an image: ``img_path``, ``img_id``, ``xml_path``, ``height``, ``width``, ``instances``."""
        self.cat2label = {name: label for label, name in enumerate(self._metainfo["classes"])}
        if self._local:
            require_layout("Pascal VOC", self.sub_data_root, (f"{self.ann_subdir}/", f"{self.img_subdir}/"), _SOURCE)
        self._report = AnnotationReport()
        names = self._read_split()
        samples = []
        for name in dict.fromkeys(names):
            try:
                sample = self.parse_data_info({"img_id": name})
                if isinstance(sample, dict):
                    samples.append(sample)
            except (OSError, ValueError) as error:
                self._report.unusable.append(f"{name} ({error})")
        repeated = [(name, times) for name, times in Counter(names).items() if times > 1]
        self._report.unusable += [f"{name} (it is listed {times} times)" for name, times in repeated]
        self._conclude(len(names), samples)
        return samples

    def parse_data_info(self, img_info: dict[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """Read one annotation file and check its image.

        Args:
            img_info: With ``img_id``.

        Returns:
            The sample; an empty list where ``size_mismatch`` skips it.

        Raises:
            ValueError: What is wrong with either file, in one line.
        """
        name = img_info["img_id"]
        xml_path = self._annotation_path(name)
        img_path = self._find_image(name)
        annotation = self._read_annotation(xml_path)
        self._report.unclear.update(annotation.unclear)
        other = os.path.basename(annotation.filename.replace("\\", "/"))
        if self._local and other and self._images.find(other) not in (None, img_path):
            self._report.others.append(f"{name}.xml names {other}")
        size, scale = annotation.size, (1.0, 1.0)
        if self._local:
            size = self._decoded_size(img_path)
            if annotation.size not in (None, size):
                pair = f"{annotation.size[0]}x{annotation.size[1]} in the XML, {size[0]}x{size[1]} in the image"
                turned = turning(img_path) if annotation.size == size[::-1] else ""
                if turned and self.size_mismatch == "rescale":
                    raise ValueError(f"{pair}, which scaling does not undo; {turned}")
                self._report.turned = self._report.turned or turned
                self._report.sizes.append(f"{name} ({pair})")
                if self.size_mismatch == "skip":
                    return []
                if self.size_mismatch == "rescale":
                    scale = (size[0] / annotation.size[0], size[1] / annotation.size[1])
        width, height = size or (0, 0)
        return {
            "img_path": img_path,
            "img_id": name,
            "xml_path": xml_path,
            "height": height,
            "width": width,
            "instances": self._instances(name, annotation.objects, size, scale),
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
        if self.negatives and len(kept) < len(self.data_list) and not self.test_mode:
            left_out = len(self.data_list) - len(kept)
            self._log(f"filter_cfg={self.filter_cfg} leaves {left_out} images out, which negatives=True would keep")
        return kept

    def _read_split(self) -> list[str]:
        """Return the names of the images, in the order of the list."""
        path = Path(self.ann_file)
        if self._local and not path.is_file():
            lists = sorted(item.name for item in path.parent.glob("*.[tT][xX][tT]"))
            near = difflib.get_close_matches(path.name, lists, n=1)
            hint = f", did you mean {near[0]}?" if near else " (it is a folder)" if path.is_dir() else ""
            there = f"are: {join_first(lists)}" if lists else f"is no *.txt in {path.parent.absolute()}"
            raise FileNotFoundError(
                f"list of images not found: looked for {path.absolute()}{hint} (there {there}); set ann_file to a text "
                "file with one image name a line"
            )
        lines = read_lines(self.ann_file, backend_args=self.backend_args)
        if lines and lines[0].startswith(("{", "[{", "<")):
            raise ValueError(
                f"{path.absolute()} is no list of images (it begins with {lines[0][:20]!r}): set ann_file to a text "
                "file with one image name a line"
            )
        if not self._local:
            return [without_suffix(line) for line in without_marks(lines)]
        names, columns = names_in_list(lines, self._images, self.ann_subdir)
        if columns:
            self._log(columns)
        if not names:
            raise ValueError(f"{path.absolute()} is empty: it should hold one image name a line")
        return names

    def _find_image(self, name: str) -> str:
        if not self._local:
            return os.path.join(self.sub_data_root, self.img_subdir, f"{name}.jpg")
        path = self._images.find(name)
        if path is None:
            raise ValueError(self._images.missing(name))
        if reason := self.check_file(path):
            raise ValueError(f"{path}: {reason}")
        return path

    def _annotation_path(self, name: str) -> str:
        path = os.path.join(self.sub_data_root, self.ann_subdir, f"{name}.xml")
        if not self._local or os.path.isfile(path):
            return path
        own = normalize("NFC", os.path.splitext(path)[0])  # file systems differ in letters with accents
        others = (os.path.splitext(file) for file in self._annotations.files_named(name))
        found = [stem + end for stem, end in others if end.lower() == ".xml" and normalize("NFC", stem) == own]
        return found[0] if found else path

    def _read_annotation(self, path: str) -> VOCAnnotation:
        if self._local and not os.path.isfile(path):
            if os.path.isdir(path):
                raise ValueError(f"{path} is a folder, not an annotation file")
            name = os.path.splitext(os.path.relpath(path, self._annotations.root))[0]
            if other := self._annotations.elsewhere(name):
                raise ValueError(f"there is no {path}, but {other}, which is not read: write it as {name}.xml")
            if self.negatives:
                return VOCAnnotation(None, [], [])
            raise ValueError(f"there is no {path}; negatives=True keeps images without one as background")
        content = get(path, backend_args=self.backend_args)
        if self.negatives and not content.strip():
            return VOCAnnotation(None, [], [])
        try:
            return parse_annotation(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _instances(
        self, image: str, objects: list[VOCObject], size: tuple[int, int] | None, scale: tuple[float, float]
    ) -> list[dict[str, Any]]:
        """Return the objects of the class list as mmdet wants them."""
        instances = []
        for item in objects:
            label = self.cat2label.get(item.name)
            if label is None:
                self._report.foreign[item.name] += 1
                continue
            self._report.known[item.name] += 1
            self._report.difficult += item.difficult
            box = self._box(image, item, size, scale)
            width, height = box[2] - box[0], box[3] - box[1]
            if min(width, height) <= 0:
                self._report.box(_NO_AREA[self.test_mode] + _FRACTIONS * (max(item.box) <= 1), image)
                if not self.test_mode:
                    continue
            small = self.bbox_min_size is not None and min(width, height) < self.bbox_min_size
            instances.append({"bbox": box, "bbox_label": label, "ignore_flag": int(item.difficult or small)})
        return instances

    def _box(
        self, image: str, item: VOCObject, size: tuple[int, int] | None, scale: tuple[float, float]
    ) -> list[float]:
        """Return ``[x1, y1, x2, y2]`` from 0, in order, inside of the image."""
        self._report.largest = max(self._report.largest, *item.box)
        left, top, right, bottom = ((corner - 1) * by for corner, by in zip(item.box, (*scale, *scale), strict=True))
        if left > right or top > bottom:
            self._report.box(_SWAPPED, image)
            left, right, top, bottom = min(left, right), max(left, right), min(top, bottom), max(top, bottom)
        if size is None:
            return [left, top, right, bottom]
        if min(left, top) < -1 or right > size[0] or bottom > size[1]:  # counted from 0 or from 1
            self._report.box(_OUTSIDE, image)
        return [min(max(x, 0.0), limit) for x, limit in zip((left, top, right, bottom), (*size, *size), strict=True)]

    def _conclude(self, listed: int, samples: list[dict[str, Any]]) -> None:
        """Log the problems of the annotations; stop at those that leave nothing to train on."""
        found, lists = self._report, Path(self.ann_file).absolute()
        if found.unusable and not samples and self.on_error == "skip":
            raise ValueError(f"none of the {listed} images of {lists} can be used: {join_first(found.unusable)}")
        self.report_unusable(found.unusable, listed, str(lists))
        sizes = found.size_lines(lists, listed, self.size_mismatch, bool(samples))
        found.require_boxes(
            lists, list(self.cat2label), [box["bbox"] for sample in samples for box in sample["instances"]]
        )
        for line in (*sizes, *found.lines()):
            self._log(line)
        if self._local and (several := list(self._images.several.values())):
            self._log(f"names with several image files: {len(several)}, read are {join_first(several)}")

    def _log(self, line: str) -> None:
        warn(f"{Path(self.ann_file).absolute()}: {line}")
