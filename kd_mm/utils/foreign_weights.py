"""Weights of a network that another toolkit wrote: torchvision's, timm's or a paper's code, under names of its own."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kd_mm.utils.suggest import join_first, warn

#: Backbones of which torchvision's and timm's names tell the order of the layers, by number except for the words below.
_NUMBERED = (
    "DistilledVisionTransformer",
    "EfficientNet",
    "EfficientNetV2",
    "MobileNetV2",
    "MobileNetV3",
    "ResNeXt",
    "ResNet",
    "ResNetV1c",
    "ResNetV1d",
    "SEResNeXt",
    "SEResNet",
    "SwinTransformer",
    "SwinTransformerV2",
    "VisionTransformer",
)
#: Of these the toolkits list the layers of a block in orders of their own.
_BY_NAME = ("SEResNeXt", "SEResNet", "SwinTransformerV2")
#: Backbones whose weights are compared with the source's by their logits.
FAMILIES = (
    *_NUMBERED,
    "CIFARMobileNetV2",
    "CIFARResNet",
    "CIFARShuffleNetV1",
    "CIFARShuffleNetV2",
    "CIFARVGG",
    "CIFARWideResNet",
    "OSNet",
    "ResNet_CIFAR",
)
#: What to do with a file whose last layer has another number of outputs.
OTHER_CLASSES = "it is of another number of classes: train it on those of its config first, from this file by load_from"
_LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_FIRST = (
    "cls_token class_token dist_token pos_embed conv_proj patch_embed conv_stem bn1 norm1 ln_1 attn self_attention "
    "norm2 ln_2 mlp"
)
_FIRST_OF_SWIN_V2 = "patch_embed downsample q_bias v_bias attn norm1 mlp norm2"
_LAST = "norm classifier fc head heads head_dist"
#: The parts of timm's blocks with depthwise or squeeze-and-excite layers; the latter may be missing.
_BLOCKS = ("conv_dw bn1 se conv_pw bn2", "conv_pw bn1 conv_dw bn2 se conv_pwl bn3", "conv_exp bn1 se conv_pwl bn2")
#: Follow from the network's sizes.
_FIXED = ("relative_position_index", "relative_coords_table", "attn_mask")


def own_names(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the same network from another toolkit under this network's names, in its dtypes.

    Toolkits name the layers of a network differently and list them in the same order. So tensors of one shape and kind
    (weight, bias, statistics) are matched in their order, and every tensor on both sides must be matched. Batch
    counters that the source lacks start at 0.

    Args:
        model: A classifier with one of the backbones in :data:`FAMILIES`.
        weights: Under the source's names, in the order of its ``state_dict``; or sorted by name, where that tells.

    Raises:
        ValueError: In one line, what is missing or left over, or that the network computes something else.
    """
    trunk = type(dict(model.named_children()).get("backbone", model)).__name__
    _check_settings(model, trunk, weights)
    if trunk == "SwinTransformerV2":
        weights = _split_biases(weights)
    if trunk.startswith("SE") and any(".se_module." in name for name in weights):
        raise ValueError("a legacy SE-ResNet of timm's, whose first pooling is another: take one that is not legacy")
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(_FIXED)}
    given = [name for name in weights if not name.endswith(_FIXED)]
    floats = [name for name in given if weights[name].is_floating_point()]
    if trunk in _BY_NAME or (len(floats) > 2 and floats == sorted(floats)):
        if trunk not in _NUMBERED:
            raise ValueError(
                "its tensors are sorted by name, as in a safetensors file, so the order of the layers is lost: take "
                "the .pth or .bin file of the same weights"
            )
        given = _in_order(given, _FIRST_OF_SWIN_V2 if trunk == "SwinTransformerV2" else _FIRST)
    queues: dict[tuple, list[str]] = defaultdict(list)
    for name in given:
        queues[_kind(name, weights[name])].append(name)
    matched: dict[str, Tensor] = {}
    missing = []
    for name, tensor in own.items():
        queue = queues[_kind(name, tensor)]
        if queue:
            matched[name] = weights[queue.pop(0)].to(tensor.dtype).view_as(tensor)
        elif name.endswith("num_batches_tracked"):
            matched[name] = torch.zeros_like(tensor)
        else:
            missing.append(name)
    over = [name for queue in queues.values() for name in queue]
    for name in [name for name in missing if name.endswith("pos_embed")]:  # of another image size, resized when loaded
        alike = (each for each in over if "pos_emb" in each and weights[each].shape[-1] == own[name].shape[-1])
        if other := next(alike, ""):
            matched[name] = weights[other].to(own[name].dtype)
            missing.remove(name)
            over.remove(other)
    if missing or over:
        sides = (("missing", missing, own), ("left over", over, weights))
        parts = [
            f"{side}: {join_first([f'{name} {tuple(tensors[name].shape)}' for name in names])}"
            for side, names, tensors in sides
            if names
        ]
        raise ValueError("; ".join(parts) + _hint(own, missing, weights, over))
    if trunk.startswith("SwinTransformer"):  # of the second version, the reduction alone comes after the joining
        joined = ".downsample." if trunk == "SwinTransformer" else ".downsample.reduction."
        matched.update({name: _unfolded(tensor) for name, tensor in matched.items() if joined in name})
    return {name: matched.get(name, tensor) for name, tensor in model.state_dict().items()}


def _hint(own: Mapping[str, Tensor], missing: list[str], weights: Mapping[str, Tensor], over: list[str]) -> str:
    """Return what to do where the classifiers alone differ."""
    if any(".pre_logits." in name for name in missing):
        return "; set model.head.hidden_dim=None"
    pairs = list(zip(missing, over, strict=False))
    alike = len(missing) == len(over) and all(own[a].shape[1:] == weights[b].shape[1:] for a, b in pairs)
    return f"; {OTHER_CLASSES}" if alike else ""


def _check_settings(model: nn.Module, trunk: str, weights: Mapping[str, Tensor]) -> None:
    """Stop or warn where the source may pad otherwise or have norms of another eps, which no name or shape tells.

    mmpretrain's EfficientNets are TensorFlow's, as timm's ``tf_*`` are: strided convolutions are padded at the end, and
    the norms' eps is 1e-3. Its MobileNetV3 is torchvision's: padded evenly, with that eps.
    """
    norm = "model.backbone.norm_cfg=dict(type='BN', eps=1e-5)"
    if any(type(module).__name__ == "Conv2dAdaptivePadding" for module in model.modules()):
        remedy = "mmpretrain has no such network, take timm's tf_efficientnetv2"
        if trunk == "EfficientNet":
            remedy = f"set model.backbone.conv_cfg=None and, for b0 to b4, {norm}"
        if any(name.startswith("features.") for name in weights):
            raise ValueError(f"torchvision pads strided convolutions evenly, this config as TensorFlow does: {remedy}")
        warn(f"{trunk}: right for timm's tf_* weights; its others pad strided convolutions evenly, for these {remedy}")
    of_tensorflow = any(isinstance(module, nn.BatchNorm2d) and module.eps == 1e-3 for module in model.modules())
    if trunk == "MobileNetV3" and "conv_stem.weight" in weights:
        remedy = f"; these have norms of eps 1e-5: set {norm}" if of_tensorflow else ""
        warn(
            f"{trunk}: wrong for timm's tf_* weights, which are padded as TensorFlow does; right for its others{remedy}"
        )


def _split_biases(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with one bias each for queries and values; the keys of Swin V2 have none."""
    split: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        block, found, _ = name.partition("qkv.bias")
        parts = tensor.chunk(3) if found else (tensor,)
        split.update({f"{block}q_bias": parts[0], f"{block}v_bias": parts[-1]} if found else {name: tensor})
    return split


def _in_order(names: list[str], words: str) -> list[str]:
    """Return the names of a network's tensors in the order of its layers, of which ``words`` come first."""
    first, last = words.split(), _LAST.split()
    ranks = {**{word: i - len(first) for i, word in enumerate(first)}, **{word: i + 1 for i, word in enumerate(last)}}
    parts: dict[str, set[str]] = defaultdict(set)
    for name in names:
        block, _, part = name.rpartition(".")
        while block:
            block, _, part = block.rpartition(".")
            parts[block].add(part)
    blocks = [{word: i for i, word in enumerate(block.split())} for block in _BLOCKS]
    of_block = {
        block: next((order for order in blocks if {"se", *words} == order.keys()), ranks)
        for block, words in parts.items()
    }

    def key(name: str) -> list[tuple[int, list[str | int]]]:
        words = name.split(".")
        return [
            (
                of_block.get(".".join(words[:depth]), ranks).get(word, 0),
                [int(text) if text.isdigit() else text for text in re.split(r"(\d+)", word)],
            )
            for depth, word in enumerate(words)
        ]

    return sorted(names, key=key)


def _kind(name: str, tensor: Tensor) -> tuple:
    shape = tuple(tensor.shape)
    if len(shape) == 4 and shape[2:] == (1, 1):  # a linear layer in one toolkit, a convolution in another
        shape = shape[:2]
    return next((leaf for leaf in _LEAVES if name.endswith(leaf)), ""), shape


def _unfolded(tensor: Tensor) -> Tensor:
    # Swin joins four neighbours, upper left, lower left, upper right, lower right, one after the other. mmpretrain's
    # layer has them in the order of nn.Unfold: by rows, and the four of one channel side by side.
    parts = tensor.reshape(*tensor.shape[:-1], 4, -1)[..., [0, 2, 1, 3], :]
    return parts.transpose(-1, -2).reshape(tensor.shape)
