"""Public checkpoints, renamed to plain mmpretrain checkpoints of kd_mm's configs.

Known sources: ``HobbitLong/RepDistiller`` (the teachers of the CIFAR-100 benchmark), CIFAR-10 ResNets in the form of
``akamaster/pytorch_resnet_cifar10``, and the OSNets of ``KaiyangZhou/deep-person-reid`` (without instance
normalisation).
"""

import hashlib
import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmpretrain.registry import DATASETS, MODELS
from torch import Tensor

from kd_mm.utils.config import load_config

Rule = tuple[str, str | Callable[[re.Match[str]], str]]

_MOBILENET_STAGE = (1, 1, 2, 3, 3, 4, 4)
_MOBILENET_PART = {
    0: "expand.conv",
    1: "expand.norm",
    3: "depthwise.conv",
    4: "depthwise.norm",
    6: "project.conv",
    7: "project.norm",
}
_CONV_OR_NORM = {"conv": "conv", "bn": "norm", "0": "conv", "1": "norm"}


def _vgg(match: re.Match[str]) -> str:
    block, position = int(match[1]), int(match[2])
    unit, part = divmod(position, 3)
    return f"backbone.layer{min(block + 1, 4)}.block{block}.{unit}.{('conv', 'norm', 'act')[part]}"


def _mobilenet_v2(match: re.Match[str]) -> str:
    group, part = int(match[1]), _MOBILENET_PART.get(int(match[3]), "unknown")
    return f"backbone.layer{_MOBILENET_STAGE[group]}.group{group}.{match[2]}.{part}"


def _shuffle_v1(match: re.Match[str]) -> str:
    part = ("reduce", "depthwise", "expand")[int(match[4]) - 1]
    return f"backbone.layer{match[1]}.{match[2]}.{part}.{_CONV_OR_NORM[match[3]]}"


def _shuffle_v2_down(match: re.Match[str]) -> str:
    part = ("short_branch.0", "short_branch.1", "branch.0", "branch.1", "branch.2")[int(match[3]) - 1]
    return f"backbone.layer{match[1]}.0.{part}.{_CONV_OR_NORM[match[2]]}"


def _shuffle_v2(match: re.Match[str]) -> str:
    return f"backbone.layer{match[1]}.{match[2]}.branch.{int(match[4]) - 1}.{_CONV_OR_NORM[match[3]]}"


_OSNET_PART = {
    "conv1": "reduce",
    "conv3": "expand",
    "downsample": "shortcut",
}
_LITE_PART = {"conv1": "pointwise", "conv2": "depthwise", "bn": "norm"}


def _osnet_block(match: re.Match[str]) -> str:
    part = f"{_OSNET_PART[match[3]]}.{_CONV_OR_NORM[match[4]]}"
    return f"backbone.layer{int(match[1]) - 1}.block{match[2]}.{part}"


def _osnet_stream(match: re.Match[str]) -> str:
    stream = f"streams.{'abcd'.index(match[3])}.{match[4] or 0}.{_LITE_PART[match[5]]}"
    return f"backbone.layer{int(match[1]) - 1}.block{match[2]}.{stream}"


def _osnet_gate(match: re.Match[str]) -> str:
    return f"backbone.layer{int(match[1]) - 1}.block{match[2]}.gate.{match[3]}"


def _osnet_mix(match: re.Match[str]) -> str:
    return f"backbone.layer{int(match[1]) - 1}.mix.{_CONV_OR_NORM[match[2]]}"


def _pair(name: str) -> Callable[[re.Match[str]], str]:
    """Map the first group, which tells convolution from normalisation, to ``name.conv`` and ``name.norm``."""
    return lambda match: f"{name}.{_CONV_OR_NORM[match[1]]}"


# Module names of the source, as regular expressions that match them whole -> module names of our classifiers. Where
# several match, the first counts.
RULES: dict[str, Sequence[Rule]] = {
    "kd_mm.CIFARResNet": (
        (r"(conv|bn)1", _pair("backbone.stem")),
        (r"layer([123])\.(\d+)\.((?:conv|bn)[12])", r"backbone.layer\1.\2.\3"),
        (r"layer([123])\.(\d+)\.(?:downsample|shortcut)\.0", r"backbone.layer\1.\2.shortcut.conv"),
        (r"layer([123])\.(\d+)\.(?:downsample|shortcut)\.1", r"backbone.layer\1.\2.shortcut.norm"),
        (r"fc|linear", "head.fc"),
    ),
    "ResNet_CIFAR": (
        (r"((?:conv|bn)1)", r"backbone.\1"),
        (r"layer([1234])\.(\d+)\.((?:conv|bn)[123])", r"backbone.layer\1.\2.\3"),
        (r"layer([1234])\.(\d+)\.(?:downsample|shortcut)\.([01])", r"backbone.layer\1.\2.downsample.\3"),
        (r"fc|linear", "head.fc"),
    ),
    "kd_mm.CIFARWideResNet": (
        (r"conv1", "backbone.stem"),
        (r"block([123])\.layer\.(\d+)\.((?:conv|bn)[12])", r"backbone.layer\1.\2.\3"),
        (r"block([123])\.layer\.(\d+)\.convShortcut", r"backbone.layer\1.\2.shortcut"),
        (r"bn1", "backbone.layer3.norm"),
        (r"fc", "head.fc"),
    ),
    "kd_mm.CIFARVGG": (
        (r"block([01234])\.(\d+)", _vgg),
        (r"classifier", "head.fc"),
    ),
    "kd_mm.CIFARMobileNetV2": (
        (r"conv1\.([01])", _pair("backbone.stem")),
        (r"blocks\.([0-6])\.(\d+)\.conv\.(\d+)", _mobilenet_v2),
        (r"conv2\.([01])", _pair("backbone.layer4.head")),
        (r"classifier\.0", "head.fc"),
    ),
    "kd_mm.CIFARShuffleNetV1": (
        (r"(conv|bn)1", _pair("backbone.stem")),
        (r"layer([123])\.(\d+)\.(conv|bn)([123])", _shuffle_v1),
        (r"linear", "head.fc"),
    ),
    "kd_mm.CIFARShuffleNetV2": (
        (r"(conv|bn)1", _pair("backbone.stem")),
        (r"layer([123])\.0\.(conv|bn)([1-5])", _shuffle_v2_down),
        (r"layer([123])\.(\d+)\.(conv|bn)([123])", _shuffle_v2),
        (r"(conv|bn)2", _pair("backbone.layer3.head")),
        (r"linear", "head.fc"),
    ),
    "kd_mm.OSNet": (
        (r"conv1\.(conv|bn)", _pair("backbone.stem.conv")),
        (r"conv([234])\.([01])\.(conv1|conv3|downsample)\.(conv|bn)", _osnet_block),
        (r"conv([234])\.([01])\.conv2([abcd])\.(?:(\d)\.)?(conv1|conv2|bn)", _osnet_stream),
        (r"conv([234])\.([01])\.gate\.(fc[12])", _osnet_gate),
        (r"conv([23])\.2\.0\.(conv|bn)", _osnet_mix),
        (r"conv5\.(conv|bn)", _pair("backbone.layer3.mix")),
        (r"fc\.0", "neck.fc"),
        (r"fc\.1", "neck.norm"),
        (r"classifier", "head.fc"),
    ),
}


def convert_checkpoint(
    src: str | os.PathLike[str], config: str | os.PathLike[str] | Mapping[str, Any], dst: str | os.PathLike[str]
) -> dict[str, Any]:
    """Rename the tensors of a public checkpoint so that the plain config of the same network loads it.

    Every tensor of the source and every tensor of the network is accounted for, or nothing is written. ``dst`` appears
    whole or not at all. The batch counters of normalisation layers, which files of old torch versions lack, start at 0.

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
    src, dst = Path(src), Path(dst)
    full_cfg = _load_config(config)
    model_cfg = _model_cfg(full_cfg)
    network = model_cfg["backbone"]["type"].removeprefix("mmpretrain.")
    if network not in RULES:
        raise ValueError(f"no names are known for the backbone {network}; known are {', '.join(RULES)}")
    state = rename(_state_dict(src), RULES[network], MODELS.build(model_cfg).state_dict(), str(src))
    meta = {"source": src.name, "source_sha256": hashlib.sha256(src.read_bytes()).hexdigest(), "network": network}
    meta |= _dataset_meta(full_cfg)
    _write_whole({"meta": meta, "state_dict": state}, dst)
    return meta


def rename(
    source: Mapping[str, Tensor], rules: Sequence[Rule], target: Mapping[str, Tensor], origin: str
) -> dict[str, Tensor]:
    """Return the tensors of ``source`` under the names, in the order and with the dtypes of ``target``.

    Args:
        source: Tensors under their own names.
        rules: Module names of the source -> module names of the target.
        target: State dict of the network that is to load the result.
        origin: What to call the source in an error.

    Raises:
        ValueError: One line that lists what is missing, left over or of another shape.
    """
    found: dict[str, Tensor] = {}
    left_over = []
    for name, tensor in source.items():
        new_name = _new_name(name, rules)
        if new_name is None or new_name not in target or new_name in found:
            left_over.append(name)
        else:
            found[new_name] = tensor
    for name, tensor in target.items():
        if name.endswith("num_batches_tracked"):
            found.setdefault(name, torch.zeros_like(tensor))
    missing = [name for name in target if name not in found]
    reshaped = [
        f"{name} is {tuple(tensor.shape)} for {tuple(target[name].shape)}"
        for name, tensor in found.items()
        if tensor.shape != target[name].shape
    ]
    if missing or left_over or reshaped:
        problems = ("missing", missing), ("left over", left_over), ("other shape", reshaped)
        listed = "; ".join(f"{title}: {_shortened(names)}" for title, names in problems if names)
        # Only convolutional shortcuts missing: the source is one of the original CIFAR-10 networks.
        padded = not left_over and not reshaped and all(".shortcut." in name for name in missing)
        hint = "; its shortcuts have no parameters, which is backbone=dict(shortcut='pad')" if padded else ""
        raise ValueError(f"{origin} does not fit the config, nothing was written: {listed}{hint}")
    return {name: found[name].to(tensor.dtype) for name, tensor in target.items()}


def _new_name(name: str, rules: Sequence[Rule]) -> str | None:
    module, _, leaf = name.rpartition(".")
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, module)
        if match:
            return f"{match.expand(replacement) if isinstance(replacement, str) else replacement(match)}.{leaf}"
    return None


def _shortened(names: Sequence[str], count: int = 4) -> str:
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest


def _load_config(config: str | os.PathLike[str] | Mapping[str, Any]) -> Any:
    if not isinstance(config, str | os.PathLike):
        return config
    return load_config(os.fspath(config))


def _model_cfg(config: Any) -> Any:
    model = config.get("model", config)
    if model.get("type", "").removeprefix("mmpretrain.") != "ImageClassifier":
        raise ValueError(
            f"a plain config of an ImageClassifier is needed, but this one's model is {model.get('type')}; for a "
            "distillation config give the student's or the teacher's own config"
        )
    return model


def _dataset_meta(config: Any) -> dict[str, Any]:
    """Return the class names of the config's data set, whose official order all known sources use."""
    loader = config.get("test_dataloader")
    known = DATASETS.get(loader["dataset"]["type"]) if loader else None
    return {"dataset_meta": dict(known.METAINFO)} if known else {}


def _state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path.absolute()}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and plain values ({_refused(error)}), and opening it could run code from "
            "it: where you trust it, load it yourself and save its state dict alone"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged or no torch checkpoint ({str(error).splitlines()[0]})") from error
    for key in ("model", "state_dict", "net"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values())
    if not tensors or not content:
        raise ValueError(f"{path} holds no state dict, neither alone nor under 'model', 'state_dict' or 'net'")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _refused(error: Exception) -> str:
    match = re.search(r"GLOBAL ([\w.]+)", str(error))
    return match[1] if match else (str(error).splitlines() or ["unreadable"])[0]


def _write_whole(content: dict[str, Any], dst: Path) -> None:
    dst.parent.mkdir(parents=True, exist_ok=True)
    temporary = dst.with_name(f".{dst.name}.{os.getpid()}.tmp")
    try:
        torch.save(content, temporary)
        os.replace(temporary, dst)
    finally:
        temporary.unlink(missing_ok=True)
