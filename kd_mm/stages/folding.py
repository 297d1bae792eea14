"""Folding the batch norms of a frozen network into the convolutions before them, without touching the network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_mm.stages.packing import convolve, pack, packs


class _Fold:
    """A convolution and the batch norm that alone reads it.

    ``BN(W x + b) = (s W) x + s (b - mean) + beta`` with ``s = gamma / sqrt(var + eps)``. The product is kept and made
    anew whenever a tensor that it came from was replaced or changed in place. While gradients are enabled, or the norm
    is in training mode, both modules compute as ever; so they do on a GPU, where cuDNN adds the bias in a pass of its
    own, slower than the norm's.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        self.conv, self.norm = conv, norm
        self._origin: list[Any] = []
        self._product: tuple[Tensor, Tensor] | None = None
        self._packed: tuple[torch.Size, Tensor] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Fold:
        memo[id(self)] = twin = copy.copy(self)  # first: the modules hold it, too
        twin.conv, twin.norm = copy.deepcopy(self.conv, memo), copy.deepcopy(self.norm, memo)
        twin._product = twin._packed = None
        return twin

    @property
    def active(self) -> bool:
        return self.conv.weight.is_cpu and not self.norm.training and not torch.is_grad_enabled()

    def product(self) -> tuple[Tensor, Tensor]:
        conv, norm = self.conv, self.norm
        sources = (conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var)
        origin = [None if t is None else (t.data_ptr(), t._version, t.dtype, t.device) for t in sources]
        if self._product is None or origin != self._origin:
            self._origin, self._product, self._packed = origin, self._multiply(), None
        return self._product

    def run(self, x: Tensor) -> Tensor:
        conv, (weight, bias) = self.conv, self.product()
        if not packs(conv, x):
            return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        if self._packed is None or self._packed[0] != x.shape:  # laid out for another size it may be far slower
            self._packed = x.shape, pack(conv, weight, x)
        return convolve(conv, x, self._packed[1], bias)

    def _multiply(self) -> tuple[Tensor, Tensor]:
        conv, norm = self.conv, self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = torch.rsqrt(norm.running_var.double() + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        shift = -norm.running_mean.double()
        if conv.bias is not None:
            shift = shift + conv.bias.double()
        shift = shift * scale
        if norm.bias is not None:
            shift = shift + norm.bias.double()
        weight = conv.weight.double() * scale[:, None, None, None]
        return weight.to(conv.weight), shift.to(conv.weight)


class _ConvForward:
    """``forward`` of a folded convolution. A class, so that a deep copy of the network gets folds of its own."""

    def __init__(self, fold: _Fold) -> None:
        self.fold = fold

    def __call__(self, x: Tensor) -> Tensor:
        return self.fold.run(x) if self.fold.active else nn.Conv2d.forward(self.fold.conv, x)


class _NormForward:
    """``forward`` of a folded batch norm: its work is done already."""

    def __init__(self, fold: _Fold) -> None:
        self.fold = fold

    def __call__(self, x: Tensor) -> Tensor:
        return x if self.fold.active else nn.BatchNorm2d.forward(self.fold.norm, x)


class _Finder:
    """Watches one forward pass for batch norms that are called on what a convolution has just returned."""

    def __init__(self) -> None:
        self.last: tuple[nn.Conv2d, Any] | None = None
        self.pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
        self.calls: dict[nn.Module, int] = {}

    def before_norm(self, norm: nn.BatchNorm2d, args: tuple[Any, ...]) -> None:
        self.calls[norm] = self.calls.get(norm, 0) + 1
        if self.last is not None and args and args[0] is self.last[1]:
            self.pairs.append((self.last[0], norm))
        self.last = None

    def after_conv(self, conv: nn.Conv2d, args: tuple[Any, ...], output: Any) -> None:
        self.calls[conv] = self.calls.get(conv, 0) + 1
        self.last = (conv, output)


def fold_norms(model: nn.Module, run: Callable[[], Any], keep: Collection[nn.Module] = ()) -> Callable[[], None]:
    """Let each convolution of ``model`` do the work of the batch norm that follows it, in eval mode without gradients.

    Parameters, buffers, ``state_dict`` and module tree stay as they are: only ``forward`` of the two instances is
    replaced. Pairs are found by watching ``run()``: plain ``nn.Conv2d`` and ``nn.BatchNorm2d`` that are called
    once each, the norm on exactly what the convolution returned. That nothing else reads the convolution's output
    cannot be seen so: compare the network's outputs before and after, and undo where they differ.

    Args:
        model: A network in eval mode.
        run: Runs it once.
        keep: Modules that are left as they are.

    Returns:
        A function that undoes it.
    """
    finder = _Finder()
    handles = []
    for module in model.modules():
        if module in keep or "forward" in vars(module):
            continue
        if type(module) is nn.Conv2d and module.padding_mode == "zeros":
            handles.append(module.register_forward_hook(finder.after_conv))
        elif type(module) is nn.BatchNorm2d and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(finder.before_norm))
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    folded = [pair for pair in finder.pairs if all(finder.calls[module] == 1 for module in pair)]
    for conv, norm in folded:
        fold = _Fold(conv, norm)
        vars(conv)["forward"], vars(norm)["forward"] = _ConvForward(fold), _NormForward(fold)

    def undo() -> None:
        for pair in folded:
            for module in pair:
                vars(module).pop("forward", None)

    return undo


def agree(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    """Return whether each tensor is the same up to rounding, measured by the norm of the difference."""
    for old, new in zip(before, after, strict=True):
        tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}.get(old.dtype, 0.05)
        if not bool((new.double() - old.double()).norm() <= tolerance * old.double().norm()):
            return False
    return True


@torch.no_grad()
def fold_chain(chain: nn.Module) -> None:
    """Fold the batch norms of a plain sequence of layers that begins with a convolution, if it computes the same then.

    Anything else, whose inside is not known, stays as it is.

    Args:
        chain: Maps ``(B, C, H, W)``, in eval mode.
    """
    if not isinstance(chain, nn.Sequential) or any(True for layer in chain for _ in layer.children()):
        return
    first = next(iter(chain), None)
    if not isinstance(first, nn.Conv2d):
        return
    shown = torch.linspace(-1, 1, 2 * first.in_channels * 16).view(2, first.in_channels, 4, 4).to(first.weight)
    shown = shown.contiguous(memory_format=torch.channels_last)
    try:
        before = [chain(shown)]
    except RuntimeError:  # somebody's own layers may want a larger map
        return
    undo = fold_norms(chain, lambda: chain(shown))
    if not agree(before, [chain(shown)]):
        undo()
