"""What is looked for in the images and samples of data sets of any type, before a run begins."""

from __future__ import annotations

import copy
import logging
import os
from typing import Any

from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from kd_mm.datasets.image_files import DecodedSize, ImageFolder, read_header
from kd_mm.datasets.utils import join_first
from kd_mm.datasets.voc_annotation import TURNED
from kd_mm.utils.contexts import isolated_rng
from kd_mm.utils.samples import base_datasets, name_errors

#: Images looked at in a data set, evenly spread: enough to miss a folder, few enough for the largest list.
_LOOKED_AT = 1000
#: Of these, images of 16 bits that are decoded.
_DECODED = 4
#: Samples that one step has to leave out before that counts as a fault.
_TRIED = 20


def check_data(key: str, dataset: Any, size_mismatch: str = "stop") -> None:
    """Check the images of a data set, and one sample through its pipeline, whose errors will name the data set.

    Args:
        key: Where the config has it, e.g. ``"train_dataloader"``.
        dataset: Wrapped and joined ones are looked into.
        size_mismatch: What to do about images of another size than the annotations say: ``"stop"``, ``"rescale"`` the
            images (:class:`kd_mm.datasets.ScaleToAnnotation`), or ``"keep"`` both.

    Raises:
        FileNotFoundError: There are images missing.
        ValueError: Images are of another size than the annotations say, or a sample does not pass the pipeline.
    """
    name_errors(key, dataset)
    for part in base_datasets(dataset):
        loader = next((step for step in part.pipeline.transforms if isinstance(step, LoadImageFromFile)), None)
        if loader is not None and not (loader.backend_args or loader.file_client_args):  # it opens the path itself
            samples = [part.get_data_info(i) for i in range(0, len(part), -(-len(part) // _LOOKED_AT) or 1)]
            samples = [sample for sample in samples if "://" not in str(sample.get("img_path", "://"))]
            _check_existence(key, samples)
            _check_sizes(key, samples, DecodedSize(part.pipeline.transforms), size_mismatch)
            _check_bits(key, samples, loader)
        _check_sample(key, part)


def _check_existence(key: str, samples: list[dict[str, Any]]) -> None:
    missing = [sample["img_path"] for sample in samples if not os.path.isfile(sample["img_path"])]
    if missing:
        there = ImageFolder(os.path.dirname(missing[0])).find(os.path.basename(missing[0]))
        if there is not None:
            raise FileNotFoundError(
                f"{key}: {missing[0]} does not exist, but {there} does: name it so in the annotations, or rename the "
                f"file ({len(missing)} of {len(samples)} images looked for are missing)"
            )
        raise FileNotFoundError(
            f"{key}: {missing[0]} does not exist (missing are {len(missing)} of {len(samples)} images looked for): "
            "put the data there, or set data_root"
        )


def _check_sizes(key: str, samples: list[dict[str, Any]], decoded: DecodedSize, policy: str) -> None:
    other, turned = [], False
    for sample in samples:
        declared, path = (sample.get("width"), sample.get("height")), sample["img_path"]
        if None in declared:
            continue
        try:
            size = decoded(path)
        except ValueError:  # the damage is reported when it is decoded
            continue
        if declared != size:
            turned |= declared == size[::-1]
            other.append(f"{path} ({declared[0]}x{declared[1]} in the annotations, {size[0]}x{size[1]} in the image)")
    if not other:
        return
    line = (
        f"{key}: {len(other)} of {len(samples)} images looked at are of another size than their annotations say: "
        f"{join_first(other)}"
    )
    if policy == "stop" or (policy == "rescale" and turned):
        raise ValueError(
            f"{line}; size_mismatch='rescale' at the top of the config scales such images to their annotations, 'keep' "
            f"uses both as they are{f'; {TURNED}' if turned else ''}"
        )
    outcome = "the images are scaled" if policy == "rescale" else "both are used as they are"
    print_log(f"{line}; {outcome}", "current", logging.WARNING)


def _check_bits(key: str, samples: list[dict[str, Any]], loader: LoadImageFromFile) -> None:
    """Warn of images of 16 bits that the pipeline cuts to 8."""
    deep = []
    for sample in samples:
        try:
            if read_header(sample["img_path"]).bits > 8:
                deep.append(sample["img_path"])
        except ValueError:
            continue
    if not deep:
        return
    images = [loader({"img_path": path})["img"] for path in deep[:_DECODED]]
    if any(image.dtype.itemsize == 1 for image in images):
        largest = max(int(image.max()) for image in images)
        dark = ": nearly black, store them as 8 bits, scaled to their range" if largest < 64 else ""
        print_log(
            f"{key}: {len(deep)} of {len(samples)} images looked at have 16 bits and are cut to their upper 8; the "
            f"largest value in the first {len(images)} is {largest} of 255{dark}",
            "current",
            logging.WARNING,
        )


def _check_sample(key: str, dataset: BaseDataset) -> None:
    """Let one sample with objects pass a copy of the pipeline."""
    chosen = [i for i in range(min(len(dataset), 100)) if dataset.get_data_info(i).get("instances", True)][:_TRIED]
    pipeline, dataset.pipeline = dataset.pipeline, copy.deepcopy(dataset.pipeline)  # steps may keep samples
    try:
        with isolated_rng("first sample"):
            if not chosen or any(dataset.prepare_data(index) is not None for index in chosen):
                return
            step = dataset.pipeline.dropped_by
    finally:
        dataset.pipeline = pipeline
    if step:
        raise ValueError(
            f"{key}: {step} of the pipeline leaves out each of the first {len(chosen)} samples with objects"
        )
