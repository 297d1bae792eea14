"""Taking the last halving of resolution out of a backbone."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd

from kd_mm.utils.channels import input_channels
from kd_mm.utils.contexts import eval_mode

_SIZE = 64
#: Attribute of a changed layer: what it had before.
_BEFORE = "before_last_stride_1"


def set_last_stride(backbone: nn.Module) -> list[str]:
    """Set the stride of the layers that halve the resolution last to 1, so that the last map is twice as high and wide.

    The bag of tricks for re-identification calls it "last stride" (Luo et al. 2019, arXiv 1903.07071, section 3.5). The
    layers are found in one dry run on the CPU, which leaves weights, statistics and random states as they are.

    Args:
        backbone: A convolutional network that returns its maps, the last one last.

    Returns:
        Names of the layers that were changed.

    Raises:
        ValueError: The last map did not get twice as high and wide, as in networks whose halving is no convolution or
            pooling layer.
    """
    try:
        before, strided = _dry_run(backbone)
        last = min((cells for cells, _ in strided.values()), default=0)
        changed = [name for name, (cells, _) in strided.items() if cells == last]
        for name in changed:
            _unstride(strided[name][1])
        after, _ = _dry_run(backbone)
        reason = f"the last map went from {before} to {after} cells"
    except (RuntimeError, AssertionError, ValueError) as error:
        before, after, changed, reason = (0, 0), (-1, -1), [], " ".join(str(error).split())
    if after != (2 * before[0], 2 * before[1]):
        raise ValueError(
            f"{type(backbone).__name__}: the last stride cannot be removed ({reason}); use last_stride=None and the "
            "backbone's own options"
        )
    return changed


@contextmanager
def last_stride_in_place(backbone: nn.Module) -> Iterator[bool]:
    """Put back for a while what :func:`set_last_stride` took out; gives whether anything was.

    Where two stages ended up at one resolution, a dry run in here finds where the one ends and the other begins.
    """
    changed = [(vars(layer), dict(vars(layer))) for layer in backbone.modules() if _BEFORE in vars(layer)]
    try:
        for attributes, now in changed:
            attributes.update(now[_BEFORE])
        yield bool(changed)
    finally:
        for attributes, now in changed:
            attributes.update(now)


def _dry_run(backbone: nn.Module) -> tuple[tuple[int, int], dict[str, tuple[int, Any]]]:
    """Return height and width of the last map, and the layers with a stride by name with the cells of their input."""
    strided: dict[str, tuple[int, Any]] = {}

    def note(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        strided[name] = (inputs[0].shape[-2] * inputs[0].shape[-1], layer)

    with ExitStack() as hooks, eval_mode(backbone):
        for name, module in backbone.named_modules():
            if isinstance(module, nn.Conv2d | _MaxPoolNd | _AvgPoolNd) and max(_pair(module.stride)) > 1:
                hooks.enter_context(module.register_forward_pre_hook(partial(note, name)))
        output: Any = backbone(torch.zeros(1, input_channels(backbone), _SIZE, _SIZE))
    final = output[-1] if isinstance(output, list | tuple) else output
    if final.ndim != 4:
        raise ValueError(f"it gives {tuple(final.shape)}, no map")
    return (int(final.shape[-2]), int(final.shape[-1])), strided


def _unstride(layer: Any) -> None:
    vars(layer)[_BEFORE] = {name: vars(layer)[name] for name in ("stride", "kernel_size")}
    # A window as large as the stride tiles the map, and has nothing left to tile.
    if not isinstance(layer, nn.Conv2d):
        if _pair(layer.kernel_size) == _pair(layer.stride):
            layer.kernel_size = 1
        layer.stride = 1
    else:
        layer.stride = (1, 1)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))
