"""What is looked for in the images and samples of data sets of any type, before a run begins."""

from __future__ import annotations

import contextlib
import copy
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize
from urllib.parse import unquote

import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import BaseDetDataset
from mmengine.dataset import BaseDataset
from mmengine.structures import BaseDataElement

from kd_mm.checks.masks import check_masks
from kd_mm.datasets.damaged_images import file_damage
from kd_mm.datasets.image_files import DecodedSize, ImageFolder, read_header, turning
from kd_mm.utils.contexts import isolated_rng
from kd_mm.utils.samples import base_datasets, mixing_datasets, name_pipelines, run_step
from kd_mm.utils.suggest import join_first, warn

#: Images looked at in a data set, evenly spread: all of COCO, whose headers take 7 s; few enough for the largest list.
_LOOKED_AT = 200_000
#: Of these, files of which both ends are read.
_READ = 1000
#: Images are warned of whose sides have this ratio, or a larger one.
_NARROW = 10
#: Of these, images of 16 bits that are decoded.
_DECODED = 4
#: Samples that one step has to leave out before that counts as a fault.
_TRIED = 20
#: Of these, samples that make a batch.
_PASSED = 2


class _Listed(NamedTuple):
    """An image as a data set lists it: its path, width and height, and the number of boxes that reach out of it, and of
    those that are there twice, with one class."""

    path: str
    size: tuple[Any, Any]
    outside: int
    twice: int


def check_data(key: str, dataset: Any, size_mismatch: str = "stop") -> list[Any]:
    """Check the images of a data set, and samples through its pipeline, whose errors will name the data set.

    Args:
        key: Where the config has it, e.g. ``"train_dataloader"``.
        dataset: Wrapped and joined ones are looked into.
        size_mismatch: What to do about images of another size than the annotations say: ``"stop"``, ``"rescale"`` the
            images (:class:`kd_mm.datasets.ScaleToAnnotation`), or ``"keep"`` both.

    Returns:
        A few samples after the pipeline, of each data set that is joined; none where steps mix images afterwards.

    Raises:
        FileNotFoundError: There are images missing.
        ValueError: Images are damaged or of another size than the annotations say, or a sample does not pass the
            pipeline.
    """
    name_pipelines(key, dataset)
    passed = []
    for part in base_datasets(dataset):
        loader = next((step for step in part.pipeline.transforms if isinstance(step, LoadImageFromFile)), None)
        if loader is not None and not (loader.backend_args or loader.file_client_args):  # it opens the path itself
            every = -(-len(part) // _LOOKED_AT) or 1
            images = [_listed(part.get_data_info(i)) for i in range(0, len(part), every)]
            images = [image for image in images if not re.match(r"\w*://", image.path)]
            folders = [folder for folder in part.data_prefix.values() if isinstance(folder, str)]
            own = type(loader) is not LoadImageFromFile or loader.imdecode_backend == "tifffile"
            _check_files(key, images, folders, [] if own else _spread(images))
            _check_sizes(key, images, DecodedSize(part.pipeline.transforms), size_mismatch)
            _check_headers(key, _spread(images), loader)
        check_masks(key, part)
        samples = _check_samples(key, part)
        if loader is not None:
            _check_upright(key, part, samples)
        if key == "train_dataloader":
            _check_order(key, part, samples)
        else:
            _check_evaluation(key, part)
        passed += samples
    return [] if any(mixing_datasets(dataset)) else passed


def _listed(sample: dict[str, Any]) -> _Listed:
    width, height, outside = sample.get("width"), sample.get("height"), 0
    boxes = [(*(item.get("bbox") or ()), item.get("bbox_label")) for item in sample.get("instances") or ()]
    if isinstance(width, int | float) and isinstance(height, int | float):
        for *box, _ in (box for box in boxes if len(box) == 5):  # corners counted from 0 or from 1, and the label
            outside += min(box[0], box[1]) < -1 or box[2] > width + 1 or box[3] > height + 1
    return _Listed(str(sample.get("img_path", "://")), (width, height), outside, len(boxes) - len(set(boxes)))


def _spread(samples: list[_Listed]) -> list[_Listed]:
    return samples[:: -(-len(samples) // _READ) or 1]


def _check_files(key: str, samples: list[_Listed], folders: list[str], read: list[_Listed]) -> None:
    """Stop at files that are missing, empty or, of those to be read, damaged; warn of images listed twice and of boxes
    outside."""
    paths = [sample.path for sample in samples]
    sizes = [(path, os.path.getsize(path) if os.path.isfile(path) else None) for path in paths]
    missing = [path for path, size in sizes if size is None]
    if missing:
        path = missing[0]
        folder, name = os.path.split(path)
        images = ImageFolder(folder)
        there = images.find(name) or images.alike(name) or _elsewhere(Path(path), folders)
        what, remedy = "does not exist", ": put the data there, or set data_root"
        if os.path.isdir(path):
            what, remedy = "is a folder, not an image", ""
        elif os.path.islink(path):
            what, remedy = f"is a link to {os.readlink(path)}, which is not there", ""
        elif "\\" in path and os.sep == "/":
            remedy = ": write / for the backslashes in the annotations"
        elif there:
            alike = normalize("NFC", str(there)) == normalize("NFC", path)  # seen alike on a screen
            name = f"{ascii(os.path.basename(there))}, whose accents are other characters," if alike else str(there)
            remedy = f", but {name} does: name it so in the annotations or by data_prefix, or rename the file"
        count = f"missing are {len(missing)} of {len(samples)} images looked for"
        raise FileNotFoundError(f"{key}: {path} {what} ({count}){remedy}")
    damaged = [f"{path} (it is empty)" for path, size in sizes if not size]
    damaged += [] if damaged else [f"{each.path} ({reason})" for each in read if (reason := file_damage(each.path))]
    if damaged:
        raise ValueError(
            f"{key}: {len(damaged)} of {len(samples)} images looked at are damaged: {join_first(damaged)}; repair them "
            "or take them out of the annotations"
        )
    if twice := [path for path, count in Counter(paths).items() if count > 1]:
        line = f"{key}: {len(twice)} images are listed more than once, each time with its own label or objects"
        warn(f"{line}: {join_first(twice)}")
    if doubled := [each for each in samples if each.twice]:
        warn(
            f"{key}: {sum(each.twice for each in doubled)} boxes of {len(doubled)} of {len(samples)} images looked at "
            f"are there twice, with one class ({join_first([each.path for each in doubled])}): each copy is learned, "
            "and none but the first can be found"
        )
    outside = [each for each in samples if each.outside]
    if outside:
        warn(
            f"{key}: {sum(each.outside for each in outside)} boxes of {len(outside)} of {len(samples)} images looked "
            f"at reach out of their image ({join_first([each.path for each in outside])}): are they written as the "
            "data set reads them? (COCO: left, top, width, height)"
        )


def _elsewhere(path: Path, folders: list[str]) -> Path | None:
    """Return the image without some of the folders in its path, such as one that is named twice, or in one more, or in
    one of the data set, where the annotations name those of another machine, or the name as other programs write it."""
    parts = path.parts
    cut = [Path(*parts[:i], *parts[j:]) for i in range(1, len(parts)) for j in range(i + 1, len(parts))]
    below = [folder / path.name for folder in path.parent.iterdir()] if path.parent.is_dir() else []
    # As addresses are written, or with Label Studio's mark.
    names = [path.name, unquote(path.name), re.sub("^[0-9a-f]{8}-", "", path.name)]
    named = [Path(str(folder), name) for folder in (path.parent, *folders) for name in names]
    return next((other for other in (*cut, *below, *named) if other.is_file()), None)


def _check_sizes(key: str, samples: list[_Listed], decoded: DecodedSize, policy: str) -> None:
    other, turned = [], ""
    for path, declared, *_ in samples:
        if None in declared:
            continue
        try:
            size = decoded(path)
        except ValueError:  # the damage is reported when it is decoded
            continue
        if declared != size:
            turned = turned or (turning(path) if declared == size[::-1] else "")
            other.append(f"{path} ({declared[0]}x{declared[1]} in the annotations, {size[0]}x{size[1]} in the image)")
    if not other:
        return
    line = (
        f"{key}: {len(other)} of {len(samples)} images looked at are of another size than their annotations say: "
        f"{join_first(other)}"
    )
    if any(0 in sample.size for sample in samples):
        raise ValueError(f"{line}; write the images' width and height there: upstream leaves out boxes beyond them")
    if policy == "stop" or (policy == "rescale" and turned):
        raise ValueError(
            f"{line}; size_mismatch='rescale' at the top of the config scales such images to their annotations, 'keep' "
            f"uses both as they are{turned and f'; {turned}'}"
        )
    warn(f"{line}; {'the images are scaled' if policy == 'rescale' else 'both are used as they are'}")


def _check_headers(key: str, samples: list[_Listed], loader: LoadImageFromFile) -> None:
    """Warn of images that are much longer than wide, of several pages, and of 16 bits that the pipeline cuts to 8."""
    narrow, paged, deep = [], [], []
    for sample in samples:
        try:
            header = read_header(sample.path)
        except ValueError:
            continue
        if max(header.size) >= _NARROW * min(header.size):
            narrow.append(f"{sample.path} ({header.size[0]}x{header.size[1]})")
        if header.pages > 1:
            paged.append(sample.path)
        if header.bits > 8:
            deep.append(sample.path)
    if narrow:
        warn(
            f"{key}: {len(narrow)} of {len(samples)} images looked at are {_NARROW} times as long as wide, or more: "
            f"{join_first(narrow)}: are they complete, and what does the pipeline make of them?"
        )
    if paged:
        warn(
            f"{key}: {len(paged)} of {len(samples)} images looked at have several pages, of which the first is read: "
            f"{join_first(paged)}"
        )
    if not deep:
        return
    images = [run_step(loader, {"img_path": path}, key, path)["img"] for path in deep[:_DECODED]]
    if any(image.dtype.itemsize == 1 for image in images):
        largest = max(int(image.max()) for image in images)
        dark = ": nearly black, store them as 8 bits, scaled to their range" if largest < 64 else ""
        warn(
            f"{key}: {len(deep)} of {len(samples)} images looked at have 16 bits and are cut to their upper 8; the "
            f"largest value in the first {len(images)} is {largest} of 255{dark}"
        )


def _check_upright(key: str, dataset: BaseDataset, samples: Sequence[Any]) -> None:
    """Warn where the pipeline makes wide images of upright ones, or the other way round."""
    size, lying = DecodedSize(dataset.pipeline.transforms), []
    if any(re.search("Rotat|Affine|Crop|Albu", type(step).__name__) for step in dataset.pipeline.transforms):
        return
    for sample in samples:
        named = sample.get("data_samples") if isinstance(sample, Mapping) else None
        if not isinstance(named, BaseDataElement):  # several of a test with augmentations
            return
        path, image = str(named.get("img_path", "")), sample.get("inputs")
        if os.path.isfile(path) and isinstance(image, torch.Tensor):
            with contextlib.suppress(ValueError):
                before, after = (width / height for width, height in (size(path), image.shape[:-3:-1]))
                lying.append((before < 0.8 and after > 1.25) or (before > 1.25 and after < 0.8))
    if lying and all(lying):
        warn(f"{key}: the pipeline exchanges width and height of the first images: scale of Resize is (width, height)")


def _check_order(key: str, dataset: BaseDataset, passed: Sequence[Any]) -> None:
    """Stop where boxes for training are loaded after a step that would have moved them."""
    names = [type(step).__name__ for step in dataset.pipeline.transforms]
    packed = [sample.get("data_samples") for sample in passed if isinstance(sample, Mapping)]
    scaled = any(sample is not None and tuple(sample.get("scale_factor", (1, 1))) != (1, 1) for sample in packed)
    for step in names[: names.index("LoadAnnotations")] if "LoadAnnotations" in names else ():
        if step.endswith(("Flip", "Crop", "Affine")) or (scaled and step.endswith("Resize")):
            raise ValueError(
                f"{key}: {step} comes before LoadAnnotations, and so leaves the boxes as they are: load first"
            )


def _check_evaluation(key: str, dataset: BaseDataset) -> None:
    """Warn of what leaves images out of an evaluation, moves what is in them, or draws at random."""
    if dataset.filter_cfg and not dataset.test_mode:
        warn(f"{key}: its filter_cfg leaves images out of the evaluation: set test_mode=True")
    drawing = [step for step in dataset.pipeline.transforms if not vars(step).get("test_mode")]  # of CenterNet's crop
    for name in [type(step).__name__ for step in drawing if vars(step).get("prob") != 0]:
        if isinstance(dataset, BaseDetDataset) and name.endswith(("Flip", "Crop", "Affine", "Shift")):
            warn(f"{key}: {name} moves the objects of an image, and predictions are not moved back: leave it out here")
        elif re.search("Random|RandAugment|AutoAugment|Jitter|PhotoMetric", name):
            warn(f"{key}: {name} draws at random, so that results differ each time: leave it out here")


def _check_samples(key: str, dataset: BaseDataset) -> list[Any]:
    """Let a few samples with objects pass a copy of the pipeline."""
    chosen = [i for i in range(min(len(dataset), 100)) if dataset.get_data_info(i).get("instances", True)][:_TRIED]
    pipeline, dataset.pipeline = dataset.pipeline, copy.deepcopy(dataset.pipeline)  # steps may keep samples
    try:
        with isolated_rng("first sample"):
            prepared = (dataset.prepare_data(index) for index in chosen)
            passed = list(islice((sample for sample in prepared if sample is not None), _PASSED))
            step = dataset.pipeline.dropped_by
    finally:
        dataset.pipeline = pipeline
    if not passed and step:
        raise ValueError(
            f"{key}: {step} of the pipeline leaves out each of the first {len(chosen)} samples with objects"
        )
    return passed
