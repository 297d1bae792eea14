"""Batches that cannot be made or normalised: one line that names the data set and the files."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from mmdet.models.detectors import BoxInst
from mmdet.models.detectors.base import BaseDetector
from mmdet.structures import DetDataSample
from mmpretrain.models import ImageClassifier
from torch import nn

from kd_mm.checks.network_parts import check_levels, check_parts
from kd_mm.distillers import Distiller
from kd_mm.utils.channels import is_misfit, misfit, wrong_channels
from kd_mm.utils.contexts import isolated_rng
from kd_mm.utils.samples import SampleError, describe_failure, files
from kd_mm.utils.suggest import join_first, warn


def check_batch(
    key: str,
    samples: Sequence[Any],
    collate: Callable[[Sequence[Any]], Any],
    model: nn.Module,
    student: nn.Module,
    several_labels: bool = True,
) -> None:
    """Make a batch of samples, let it pass the data preprocessor, and look for what the network needs of it.

    Args:
        key: Where the config has the data set, e.g. ``"train_dataloader"``.
        samples: Some, after their pipeline; nothing is checked without any.
        collate: Of the data loader.
        model: With the ``data_preprocessor``.
        student: The network that is trained.
        several_labels: Whether a classifier's images may have more than one label.

    Raises:
        SampleError: One of these fails.
    """
    if not samples:
        return
    if not isinstance(samples[0], Mapping) or "inputs" not in samples[0]:
        pack = "mmdet.PackDetInputs" if isinstance(student, BaseDetector) else "mmpretrain.PackInputs"
        if isinstance(samples[0], Mapping) and "data_samples" in samples[0]:
            raise SampleError(f"{key}: its pipeline packs no image: one step loads it, and the last alone is {pack!r}")
        raise SampleError(f"{key}: its pipeline does not end in a step that packs samples: add dict(type={pack!r})")
    sizes = [tuple(image.shape[-2:]) for sample in samples if isinstance(image := sample["inputs"], torch.Tensor)]
    if isinstance(student, ImageClassifier) and len(set(sizes)) > 1:
        listed = join_first([f"{width}x{height}" for height, width in sizes])
        warn(
            f"{key}: the first images are of several sizes after the pipeline ({listed}): a batch pads them to the "
            "largest, and predictions depend on what is in it; let Resize and CenterCrop make one size"
        )
    _check_pixels(key, {"inputs": [each["inputs"] for each in samples], "data_samples": samples})
    if isinstance(student, BaseDetector):
        _check_shapes(key, samples)
    batch = collate(samples)
    with isolated_rng("first batch"):
        _check_values(key, explain_preprocessor(key, batch, model), sizes)
    trained = key == "train_dataloader"
    if trained:
        _check_one_hot(model.data_preprocessor, student)
    lacking = _lacking(samples[0].get("data_samples"), student, trained)
    if trained and isinstance(student, ImageClassifier) and not several_labels:
        lacking = lacking or _more_than_one_label([sample["data_samples"] for sample in samples])
    if lacking:
        raise SampleError(f"{key}: the samples of {files(samples)} {lacking}")


def _check_pixels(key: str, batch: Any) -> None:
    """Look for pixels that are infinite or NaN, which only images of floating point numbers can have."""
    for image, sample in zip(_listed(batch, "inputs"), _listed(batch, "data_samples"), strict=False):
        if isinstance(image, torch.Tensor) and image.is_floating_point() and not image.isfinite().all():
            raise SampleError(
                f"{key}: {files([sample])} has pixels that are infinite or NaN: let a step of the pipeline replace them"
            )


def _listed(batch: Any, name: str) -> Iterable[Any]:
    """Return the images or samples of a batch, none where it is of another form."""
    part = batch.get(name) if isinstance(batch, Mapping) else None
    return part if isinstance(part, list | torch.Tensor) else ()


def _check_shapes(key: str, samples: Sequence[Any]) -> None:
    """Warn of images of another size than the last step says that knows of their boxes."""
    for sample in samples:
        named, image = sample.get("data_samples"), sample["inputs"]
        shape = named.get("img_shape") if isinstance(named, DetDataSample) else None
        if shape is not None and isinstance(image, torch.Tensor) and tuple(shape[:2]) != tuple(image.shape[-2:]):
            warn(
                f"{key}: {files([sample])} has {image.shape[-1]}x{image.shape[-2]} pixels after the pipeline and is "
                f"noted as {shape[1]}x{shape[0]}: does a step resize or crop the image, and not its boxes?"
            )
            return


def _check_one_hot(preprocessor: Any, student: nn.Module) -> None:
    """Compare the classes of one-hot labels, as mixup makes them, with those of the head.

    Raises:
        SampleError: There are others.
    """
    options, head = vars(preprocessor), dict(student.named_children()).get("head")
    own = None if head is None else vars(head).get("num_classes")
    one_hot = options.get("to_onehot") or options.get("batch_augments") is not None
    if one_hot and None not in (own, options.get("num_classes")) and own != options["num_classes"]:
        raise SampleError(f"data_preprocessor.num_classes is {options['num_classes']}, the head has {own} classes")


def _check_values(key: str, images: Any, sizes: Sequence[tuple[int, ...]]) -> None:
    """Warn of images that the mean and standard deviation of the data preprocessor do not fit.

    Args:
        key: Where the config has the data set.
        images: After the data preprocessor, which may have padded them.
        sizes: Their heights and widths before it.

    Raises:
        SampleError: They make values that are not finite.
    """
    if not isinstance(images, torch.Tensor) or not sizes:
        return
    height, width = map(min, zip(*sizes, strict=True))
    images = images[..., :height, :width].float()
    largest, spread = float(images.abs().max()), float(images.std(dim=(-2, -1)).max())  # of one channel of one image
    if not math.isfinite(largest):
        raise SampleError(f"{key}: mean and std of the data_preprocessor make pixels that are not finite")
    if largest > 300 or spread < 0.02:
        warn(
            f"{key}: after the data_preprocessor the first images have values up to {largest:.3g}, with a standard "
            f"deviation of up to {spread:.2g}: are mean and std those of pixels from 0 to 255, and applied once?"
        )


def explain_preprocessor(key: str, batch: Any, model: nn.Module) -> Any:
    """Let a batch pass the data preprocessor.

    Returns:
        Its images.

    Raises:
        SampleError: It fails.
    """
    preprocessor: Any = model.data_preprocessor
    tried = [batch]
    if isinstance(batch, Mapping) and all(isinstance(part, list) for part in batch.values()):
        count = min(map(len, batch.values()))  # first each image by itself
        tried = [*({name: part[i : i + 1] for name, part in batch.items()} for i in range(count)), batch]
    try:
        with torch.no_grad():
            for images in tried:
                passed = preprocessor(images, False)
    except Exception as error:
        what = f"{type(preprocessor).__name__} fails on {files(images)}: {describe_failure(error)}"
        mean, inputs = dict(preprocessor.named_buffers()).get("mean"), images.get("inputs", ())
        other = mean is not None and any(len(image) != len(mean) for image in inputs)
        hint = "; do the images have as many channels as its mean? (color_type of LoadImageFromFile)" if other else ""
        raise SampleError(f"{key}: {what}{hint}") from error
    return passed.get("inputs") if isinstance(passed, Mapping) else None


def explain_step(key: str, batch: Any, model: nn.Module, error: Exception, first: bool = False) -> None:
    """Look for the part of a step that failed in the images of its batch; in the ``first`` one also in its loss.

    Raises:
        SampleError: Their pixels are no numbers, the data preprocessor does not take them, a batch norm got a batch of
            one, the network or a layer in it wants another number of channels, the loss of a classifier's head fails,
            or a detector's neck gives other levels than its head has.
    """
    _check_pixels(key, batch)
    images = explain_preprocessor(key, batch, model)
    student = model.student if isinstance(model, Distiller) else model
    if key == "train_dataloader":
        check_labels(key, batch, model)
    for sample in _listed(batch, "data_samples"):
        if lacking := _lacking(sample, student, key == "train_dataloader"):
            raise SampleError(f"{key}: the samples of {files([sample])} {lacking}") from error
    if "Expected more than 1 value per channel" in str(error):
        raise SampleError(
            f"{key}: {files(batch)} alone in a batch: a batch norm over one position takes two images or more; set "
            f"{key}.batch_size, or drop_last=True where the last batch is smaller"
        ) from error
    found = wrong_channels(error)
    if found and isinstance(images, torch.Tensor) and found[1] == images.shape[1]:
        raise SampleError(
            f"{key}: the images of {files(batch)} have {found[1]} channels, the network takes {found[0]}: set "
            "in_channels of its backbone, color_type of LoadImageFromFile, or mean and std of the data_preprocessor"
        ) from error
    if found or (model is student and is_misfit(error)):  # else it may be of a loss
        raise SampleError(f"model: {misfit(error)}") from error
    if first and isinstance(student, ImageClassifier):
        preprocessor: Any = model.data_preprocessor
        check_parts(student, preprocessor(batch, True), error)
    if isinstance(student, BaseDetector) and isinstance(images, torch.Tensor):
        check_levels(student, images, error)  # runs backbone and neck again, so after what may be wrong with these


def _lacking(sample: Any, student: nn.Module, trained: bool) -> str:
    """Return what a detector or a classifier needs of a packed sample and does not find, empty if nothing."""
    if isinstance(student, BaseDetector):
        if not isinstance(sample, DetDataSample):
            return f"are of {type(sample).__name__}: let the pipeline end in dict(type='mmdet.PackDetInputs')"
        if trained and "gt_instances" in sample and "bboxes" not in sample.gt_instances:
            return "have no boxes: add dict(type='mmdet.LoadAnnotations', with_bbox=True) to its pipeline"
        masked = student.with_mask and not isinstance(student, BoxInst)  # which makes its masks of boxes
        if trained and masked and "gt_instances" in sample and "masks" not in sample.gt_instances:
            return "have no masks, and the network learns them: add with_mask=True to LoadAnnotations of its pipeline"
        if "img_shape" not in sample:
            return "have no img_shape: add the word to meta_keys of PackDetInputs"
        if not trained and "scale_factor" not in sample:
            return (
                "have no scale_factor, by which boxes return to the size of the image: add a step dict(type="
                "'mmdet.Resize', ...), and the word to meta_keys of PackDetInputs where these are given"
            )
    if trained and isinstance(student, ImageClassifier) and not {"gt_label", "gt_score"} & set(sample.keys()):
        return "have no label: does the data set give one, and does the pipeline keep it?"
    return ""


def check_labels(key: str, batch: Any, model: nn.Module) -> None:
    """Look for labels that are none of the network's classes: some heads learn them as background.

    Raises:
        SampleError: An image has some.
    """
    student = model.student if isinstance(model, Distiller) else model
    for sample in _listed(batch, "data_samples"):
        if wrong := _beyond(sample, student):
            raise SampleError(f"{key}: {files([sample])} {wrong}")


def _beyond(sample: Any, student: nn.Module) -> str:
    names = r"(.+\.)?bbox_head(\.\d+)?" if isinstance(student, BaseDetector) else "head"
    heads = [vars(part).get("num_classes") for name, part in student.named_modules() if re.fullmatch(names, name)]
    counts = [count for count in heads if isinstance(count, int)]
    labels = sample.get("gt_instances", {}).get("labels") if "gt_instances" in sample else sample.get("gt_label")
    if not counts or not isinstance(labels, torch.Tensor) or not labels.numel():
        return ""
    first, last, count = int(labels.min()), int(labels.max()), max(counts)
    if first >= 0 and last < count:
        return ""
    return f"has labels from {first} to {last}, and the network predicts {count} classes, from 0 on: count from 0"


def _more_than_one_label(samples: Sequence[Any]) -> str:
    """Return what is wrong with images of several labels for a head that takes one, empty if there are none."""
    most = max(len(one.gt_label) if "gt_label" in one else int((one.gt_score > 0.5).sum()) for one in samples)
    if most < 2:
        return ""
    return (
        "have several labels, and the head takes one: take a head such as mmpretrain.MultiLabelLinearClsHead, or, if "
        "its loss is one of sigmoids, distil it with model.task=dict(type='kd_mm.MultiLabelTask')"
    )
