"""oneDNN's convolution with weights laid out once, for frozen networks on CPUs.

A plain convolution lays its weights out anew in each call, which costs most where maps are small and weights wide. The
two operators are those that ``torch.compile`` itself puts in place of a frozen convolution; PyTorch does not document
them, so whoever uses them compares the result. A ReLU in the same pass would be faster still, but makes 0 of NaN.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry, register_flop_formula


def has_packed_convolution() -> bool:
    """Return whether this PyTorch has oneDNN and it is not switched off."""
    mkldnn: Any = torch.backends.mkldnn
    return mkldnn.is_available() and mkldnn.enabled and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def packs(conv: nn.Conv2d, feature: Tensor) -> bool:
    """Return whether a convolution runs packed on ``feature``, and faster: float32 on a CPU, in ``channels_last``."""
    return (
        feature.is_cpu
        and feature.dtype == conv.weight.dtype == torch.float32
        and feature.is_contiguous(memory_format=torch.channels_last)
        and not isinstance(conv.padding, str)
        and not torch.is_autocast_enabled("cpu")
        and has_packed_convolution()
    )


def pack(conv: nn.Conv2d, weight: Tensor, feature: Tensor) -> Tensor:
    """Return ``weight`` ``(C_out, C_in / groups, k, k)`` in the layout that suits ``feature`` ``(B, C_in, H, W)``.

    Other sizes of ``feature`` give the same, but may take several times as long.
    """
    return torch.ops.mkldnn._reorder_convolution_weight(
        weight, conv.padding, conv.stride, conv.dilation, conv.groups, list(feature.shape)
    )


def convolve(conv: nn.Conv2d, feature: Tensor, packed: Tensor, bias: Tensor) -> Tensor:
    """Return the convolution of ``feature`` with packed weights and ``bias``."""
    geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
    return torch.ops.mkldnn._convolution_pointwise(feature, packed, bias, *geometry, "none", [], "")


def _flops(feature: Sequence[int], weight: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


# PyTorch's counter, which tells what a network costs, knows the plain convolutions alone.
if hasattr(torch.ops.mkldnn, "_convolution_pointwise") and torch.ops.mkldnn._convolution_pointwise not in flop_registry:
    register_flop_formula(torch.ops.mkldnn._convolution_pointwise)(_flops)
