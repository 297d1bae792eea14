"""Public checkpoints, renamed to plain mmpretrain checkpoints of kd_mm's configs.

Known sources: ``HobbitLong/RepDistiller`` (the teachers of the CIFAR-100 benchmark), CIFAR-10 ResNets in the form of
``akamaster/pytorch_resnet_cifar10``, and the OSNets of ``KaiyangZhou/deep-person-reid`` (without instance
normalisation).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmpretrain.registry import DATASETS, MODELS
from torch import Tensor

from kd_mm.datasets.utils import join_first
from kd_mm.utils.atomic_files import replace_file
from kd_mm.utils.checkpoint import read_checkpoint, student_state_dict
from kd_mm.utils.config import load_config

#: A module's name in the source as a regular expression that matches all of it, and its name in our network.
Rule = tuple[str, str]


def _pair(source: str, target: str, conv: str = "conv", norm: str = "bn") -> tuple[Rule, Rule]:
    """Return the rules of a convolution and its normalisation, whose name in the source replaces ``%s``."""
    return (source % conv, f"{target}.conv"), (source % norm, f"{target}.norm")


def _numbered(source: str, target: str, parts: Sequence[str]) -> list[Rule]:
    """Return the rules of several pairs: ``#`` is their number from 1 in the source, the name of the part in ours."""
    names = [(source.replace("#", str(number)), target.replace("#", part)) for number, part in enumerate(parts, 1)]
    return [rule for pair in names for rule in _pair(*pair)]


def _osnet_stage(stage: int) -> list[Rule]:
    block, ours = rf"conv{stage}\.([01])\.", rf"backbone.layer{stage - 1}.block\1."
    rules = [(block + r"gate\.(fc[12])", ours + r"gate.\2")]
    for source, part in (("conv1", "reduce"), ("conv3", "expand"), ("downsample", "shortcut")):
        rules += _pair(rf"{block}{source}\.%s", ours + part)
    for stream, letter in enumerate("abcd"):
        for source, part in (("conv1", "pointwise"), ("conv2", "depthwise"), ("bn", "norm")):
            unit, number = ("", "0") if stream == 0 else (r"(\d)\.", r"\2")
            rules.append((rf"{block}conv2{letter}\.{unit}{source}", rf"{ours}streams.{stream}.{number}.{part}"))
    return [*rules, *_pair(rf"conv{stage}\.2\.0\.%s", f"backbone.layer{stage - 1}.mix")]


_VGG_PARTS = ("conv", "norm", "act")
_MOBILENET_LAYERS = (1, 1, 2, 3, 3, 4, 4)
_MOBILENET_PARTS = {"01": "expand", "34": "depthwise", "67": "project"}
_SHUFFLE_V2_FIRST_PARTS = ("short_branch.0", "short_branch.1", "branch.0", "branch.1", "branch.2")

# By type of the backbone; where several rules match, the first counts.
RULES: dict[str, Sequence[Rule]] = {
    "kd_mm.CIFARResNet": (
        *_pair("%s1", "backbone.stem"),
        (r"layer([123])\.(\d+)\.((?:conv|bn)[12])", r"backbone.layer\1.\2.\3"),
        *_pair(r"layer([123])\.(\d+)\.(?:downsample|shortcut)\.%s", r"backbone.layer\1.\2.shortcut", "0", "1"),
        ("fc|linear", "head.fc"),
    ),
    "ResNet_CIFAR": (
        (r"((?:conv|bn)1)", r"backbone.\1"),
        (r"layer([1234])\.(\d+)\.((?:conv|bn)[123])", r"backbone.layer\1.\2.\3"),
        (r"layer([1234])\.(\d+)\.(?:downsample|shortcut)\.([01])", r"backbone.layer\1.\2.downsample.\3"),
        ("fc|linear", "head.fc"),
    ),
    "kd_mm.CIFARWideResNet": (
        ("conv1", "backbone.stem"),
        (r"block([123])\.layer\.(\d+)\.((?:conv|bn)[12])", r"backbone.layer\1.\2.\3"),
        (r"block([123])\.layer\.(\d+)\.convShortcut", r"backbone.layer\1.\2.shortcut"),
        ("bn1", "backbone.layer3.norm"),
        ("fc", "head.fc"),
    ),
    "kd_mm.CIFARVGG": (
        *(
            (rf"block{block}\.{index}", f"backbone.layer{min(block + 1, 4)}.block{block}.{index // 3}.{part}")
            for block in range(5)
            for index, part in enumerate(_VGG_PARTS * 4)
        ),
        ("classifier", "head.fc"),
    ),
    "kd_mm.CIFARMobileNetV2": (
        *_pair(r"conv1\.%s", "backbone.stem", "0", "1"),
        *(
            rule
            for group, layer in enumerate(_MOBILENET_LAYERS)
            for index, part in _MOBILENET_PARTS.items()
            for rule in _pair(
                rf"blocks\.{group}\.(\d+)\.conv\.%s", rf"backbone.layer{layer}.group{group}.\1.{part}", *index
            )
        ),
        *_pair(r"conv2\.%s", "backbone.layer4.head", "0", "1"),
        (r"classifier\.0", "head.fc"),
    ),
    "kd_mm.CIFARShuffleNetV1": (
        *_pair("%s1", "backbone.stem"),
        *_numbered(r"layer([123])\.(\d+)\.%s#", r"backbone.layer\1.\2.#", ("reduce", "depthwise", "expand")),
        ("linear", "head.fc"),
    ),
    "kd_mm.CIFARShuffleNetV2": (
        *_pair("%s1", "backbone.stem"),
        *_numbered(r"layer([123])\.0\.%s#", r"backbone.layer\1.0.#", _SHUFFLE_V2_FIRST_PARTS),
        *_numbered(r"layer([123])\.(\d+)\.%s#", r"backbone.layer\1.\2.branch.#", ("0", "1", "2")),
        *_pair("%s2", "backbone.layer3.head"),
        ("linear", "head.fc"),
    ),
    "kd_mm.OSNet": (
        *_pair(r"conv1\.%s", "backbone.stem.conv"),
        *(rule for stage in (2, 3, 4) for rule in _osnet_stage(stage)),
        *_pair(r"conv5\.%s", "backbone.layer3.mix"),
        (r"fc\.0", "neck.fc"),
        (r"fc\.1", "neck.norm"),
        ("classifier", "head.fc"),
    ),
}


def convert_checkpoint(
    src: str | os.PathLike[str], config: str | os.PathLike[str] | Mapping[str, Any], dst: str | os.PathLike[str]
) -> dict[str, Any]:
    """Rename the tensors of a public checkpoint so that the plain config of the same network loads it.

    Every tensor of the source and every tensor of the network is accounted for, or nothing is written. ``dst`` is
    written atomically. The batch counters of normalisation layers, which files of old torch versions lack, start at 0.

    Args:
        src: File written by ``torch.save``: a state dict, or a dict that holds one under ``model``, ``state_dict`` or
            ``net``, with or without the prefix ``module.``. Loaded without running code from it.
        config: Config of the plain classifier: a path, ``package::path``, or a loaded config.
        dst: Where to write ``dict(meta=..., state_dict=...)``.

    Returns:
        The ``meta`` that was written: ``source`` (file name), ``source_sha256``, ``network`` (type of the backbone)
        and, where the config names a data set, ``dataset_meta`` with its classes.

    Raises:
        FileNotFoundError: If ``src`` or the config does not exist.
        ValueError: If the file cannot be read safely, the network is not a known one, or tensors are missing, left
            over or of another shape. One line each.
    """
    src = Path(src)
    loaded: Any = config if isinstance(config, Mapping) else load_config(os.fspath(config))
    model = loaded.get("model", loaded)
    if model.get("type", "").removeprefix("mmpretrain.") != "ImageClassifier":
        raise ValueError(
            f"a plain config of an ImageClassifier is needed, but this one's model is {model.get('type')}; for a "
            "distillation config give the student's or the teacher's own config"
        )
    network = model["backbone"]["type"].removeprefix("mmpretrain.")
    if network not in RULES:
        raise ValueError(f"no names are known for the backbone {network}; known are {', '.join(RULES)}")
    checkpoint = read_checkpoint(str(src))
    weights = student_state_dict(checkpoint) if isinstance(checkpoint, Mapping) else {}
    if not weights:
        raise ValueError(f"{src} holds no state dict, neither alone nor under 'model', 'state_dict' or 'net'")
    state = rename_keys(weights, RULES[network], MODELS.build(model).state_dict(), str(src))
    meta = {"source": src.name, "source_sha256": hashlib.sha256(src.read_bytes()).hexdigest(), "network": network}
    loader = loaded.get("test_dataloader")
    dataset = DATASETS.get(loader["dataset"]["type"]) if loader else None
    if dataset:  # all known sources use the official order of its classes
        meta["dataset_meta"] = dict(dataset.METAINFO)
    buffer = io.BytesIO()
    torch.save({"meta": meta, "state_dict": state}, buffer)
    replace_file(os.fspath(dst), buffer.getvalue())
    return meta


def rename_keys(
    source: Mapping[str, Tensor], rules: Sequence[Rule], target: Mapping[str, Tensor], origin: str
) -> dict[str, Tensor]:
    """Return the tensors of ``source`` under the names, in the order and with the dtypes of ``target``.

    Args:
        source: Tensors under their own names.
        rules: Module names of the source and of the target.
        target: State dict of the network that is to load the result.
        origin: What to call the source in an error.

    Raises:
        ValueError: One line that lists what is missing, left over or of another shape.
    """
    renamed: dict[str, Tensor] = {}
    left_over = []
    for name, tensor in source.items():
        new_name = _new_name(name, rules)
        if new_name is None or new_name not in target or new_name in renamed:
            left_over.append(name)
        else:
            renamed[new_name] = tensor
    for name, tensor in target.items():
        if name.endswith("num_batches_tracked"):
            renamed.setdefault(name, torch.zeros_like(tensor))
    missing = [name for name in target if name not in renamed]
    reshaped = [
        f"{name} is {tuple(tensor.shape)} for {tuple(target[name].shape)}"
        for name, tensor in renamed.items()
        if tensor.shape != target[name].shape
    ]
    if missing or left_over or reshaped:
        problems = {"missing": missing, "left over": left_over, "other shape": reshaped}
        listed = "; ".join(f"{title}: {join_first(names)}" for title, names in problems.items() if names)
        # Only convolutional shortcuts missing: the source is one of the original CIFAR-10 networks.
        padded = not left_over and not reshaped and all(".shortcut." in name for name in missing)
        hint = "; its shortcuts have no parameters, which is backbone=dict(shortcut='pad')" if padded else ""
        raise ValueError(f"{origin} does not fit the config, nothing was written: {listed}{hint}")
    return {name: renamed[name].to(tensor.dtype) for name, tensor in target.items()}


def _new_name(name: str, rules: Sequence[Rule]) -> str | None:
    module, _, leaf = name.rpartition(".")
    matches = ((re.fullmatch(pattern, module), replacement) for pattern, replacement in rules)
    return next((f"{match.expand(replacement)}.{leaf}" for match, replacement in matches if match), None)
