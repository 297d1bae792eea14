"""The parts of a network run one by one after a step has failed, to name the one that does not fit the others."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kd_mm.utils.samples import SampleError, describe_failure
from kd_mm.utils.suggest import join_first


def check_parts(classifier: Any, batch: Mapping[str, Any], error: Exception) -> None:
    """Run backbone, neck and head of a classifier one by one.

    Raises:
        SampleError: One of them fails on what the one before it gives.
    """
    features, kind = classifier.backbone(batch["inputs"]), type(classifier.backbone).__name__
    if isinstance(features, torch.Tensor):
        raise SampleError(
            f"model: {kind} gives one tensor, and heads take the last of a tuple of stages: return (x,)"
        ) from error
    part = "neck"
    try:
        features = classifier.neck(features) if classifier.with_neck else features
        part = "head"
        classifier.head.loss(features, batch["data_samples"])
    except Exception as again:
        what = describe_failure(again)
        if part == "neck":
            shapes = join_first([str(tuple(each.shape)) for each in features if isinstance(each, torch.Tensor)])
            raise SampleError(
                f"model.neck: {type(classifier.neck).__name__} fails on what {kind} gives, {shapes} ({what}): set "
                "neck=None where the backbone pools"
            ) from error
        if isinstance(again, NotImplementedError):
            raise SampleError(f"model.head: {type(classifier.head).__name__} fails ({what})") from error
        loss = dict(classifier.head.named_children()).get("loss_module", classifier.head)
        raise SampleError(
            f"model.head: {type(loss).__name__} fails on its logits and labels ({what}): do its options, such as "
            "class_weight or num_classes, fit the classes of the head?"
        ) from error


def check_levels(detector: nn.Module, images: torch.Tensor, error: Exception) -> None:
    """Compare the maps that a detector's neck gives with the strides of its dense head.

    Raises:
        SampleError: There are more of one than of the other.
    """
    parts: dict[str, Any] = dict(detector.named_children())
    generator = vars(parts["bbox_head"]).get("prior_generator") if "bbox_head" in parts and "neck" in parts else None
    if generator is None:
        return
    with torch.no_grad():
        levels = parts["backbone"](images)
        try:
            maps = parts["neck"](levels)
        except RuntimeError as again:
            sizes = join_first([f"{each.shape[-1]}x{each.shape[-2]}" for each in levels])
            raise SampleError(
                f"model: the neck fails on maps of {sizes} ({describe_failure(again)}): set data_preprocessor."
                "pad_size_divisor=32, or let Pad do so"
            ) from error
    if len(maps) != generator.num_levels:
        raise SampleError(
            f"model: the neck gives {len(maps)} maps, and the head has {generator.num_levels} strides: set num_outs of "
            "the neck, or strides of the head's anchor_generator or prior_generator"
        ) from error
