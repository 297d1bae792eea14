"""Weights of a network that another toolkit wrote: torchvision's, timm's or a paper's code, under names of its own."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

#: Backbones whose weights are compared with the source's by their logits in the tests.
FAMILIES = (
    "CIFARMobileNetV2",
    "CIFARResNet",
    "CIFARShuffleNetV1",
    "CIFARShuffleNetV2",
    "CIFARVGG",
    "CIFARWideResNet",
    "EfficientNet",
    "MobileNetV2",
    "MobileNetV3",
    "OSNet",
    "ResNet",
    "ResNet_CIFAR",
    "SwinTransformer",
    "VisionTransformer",
)
_LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
#: Backbones of which torchvision's and timm's names tell the order of the layers, by number except for these words.
_NUMBERED = ("EfficientNet", "MobileNetV2", "MobileNetV3", "ResNet", "SwinTransformer", "VisionTransformer")
_FIRST = (
    "cls_token class_token pos_embed conv_proj patch_embed conv_stem bn1 norm1 ln_1 attn self_attention norm2 ln_2 mlp"
)
_LAST = "norm classifier fc head heads"
#: Follow from the network's sizes.
_FIXED = ("relative_position_index", "attn_mask")


def own_names(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the same network from another toolkit under this network's names, in its dtypes.

    Toolkits name the layers of a network differently and list them in the same order. So tensors of one shape and kind
    (weight, bias, statistics) are matched in their order, and every tensor on both sides must be matched. Batch
    counters that the source lacks start at 0.

    Args:
        model: A classifier with one of the backbones in :data:`FAMILIES`.
        weights: Under the source's names, in the order of its ``state_dict``; or sorted by name, where that tells.

    Raises:
        ValueError: In one line, what is missing or left over.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(_FIXED)}
    given = [name for name in weights if not name.endswith(_FIXED)]
    floats = [name for name in given if weights[name].is_floating_point()]
    trunk = type(dict(model.named_children()).get("backbone", model)).__name__
    if len(floats) > 2 and floats == sorted(floats):
        # In a block of timm with squeeze-and-excite the order depends on the kind of the block.
        if trunk not in _NUMBERED or any(".se." in name for name in given):
            raise ValueError(
                "its tensors are sorted by name, as in a safetensors file, so the order of the layers is lost: take "
                "the .pth or .bin file of the same weights"
            )
        given.sort(key=_order)
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
            missing.append(f"{name} {tuple(tensor.shape)}")
    over = [f"{name} {tuple(weights[name].shape)}" for queue in queues.values() for name in queue]
    if missing or over:
        problems = (("missing", missing), ("left over", over))
        raise ValueError("; ".join(f"{what}: {_first(names)}" for what, names in problems if names))
    if trunk == "SwinTransformer":
        matched.update({name: _unfolded(tensor) for name, tensor in matched.items() if ".downsample." in name})
    return {name: matched.get(name, tensor) for name, tensor in model.state_dict().items()}


def _order(name: str) -> list[tuple[int, list[str | int]]]:
    """Return by what the names of a network's tensors are sorted into the order of its layers."""
    first, last = _FIRST.split(), _LAST.split()
    ranks = {**{word: i - len(first) for i, word in enumerate(first)}, **{word: i + 1 for i, word in enumerate(last)}}
    return [
        (ranks.get(part, 0), [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", part)])
        for part in name.split(".")
    ]


def _kind(name: str, tensor: Tensor) -> tuple:
    shape = tuple(tensor.shape)
    if len(shape) == 4 and shape[2:] == (1, 1):  # a linear layer in one toolkit, a convolution in another
        shape = shape[:2]
    return next((leaf for leaf in _LEAVES if name.endswith(leaf)), ""), shape


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _unfolded(tensor: Tensor) -> Tensor:
    # Swin joins four neighbours, upper left, lower left, upper right, lower right, one after the other. mmpretrain's
    # layer has them in the order of nn.Unfold: by rows, and the four of one channel side by side.
    parts = tensor.reshape(*tensor.shape[:-1], 4, -1)[..., [0, 2, 1, 3], :]
    return parts.transpose(-1, -2).reshape(tensor.shape)
