"""What a piece of code costs: seconds on two clocks, multiply-adds, calls of operators."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

Part = Callable[[], Any]


def time_rounds(
    parts: Mapping[str, Part], device: str, rounds: int, warmup: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Run all parts one after the other, round by round; return wall seconds and CPU seconds of each.

    Args:
        parts: By name.
        device: ``"cpu"`` or ``"cuda"``, whose wall seconds come from device events.
        rounds: Measured rounds.
        warmup: Rounds before these.
    """
    wall: dict[str, list[float]] = {name: [] for name in parts}
    cpu: dict[str, list[float]] = {name: [] for name in parts}
    clock = _cuda_seconds if device == "cuda" else _wall_seconds
    for number in range(warmup + rounds):
        for name, part in parts.items():
            start = time.process_time()
            seconds = clock(part)
            if number >= warmup:
                wall[name].append(seconds)
                cpu[name].append(time.process_time() - start)
    return wall, cpu


def _wall_seconds(part: Part) -> float:
    start = time.perf_counter()
    part()
    return time.perf_counter() - start


def _cuda_seconds(part: Part) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    part()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def count_multiply_adds(part: Part) -> int:
    """Return the multiply-adds of one run: of convolutions and matrix products, backward included."""
    backward = {torch.ops.aten.convolution_backward: _convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=backward) as counter:
        part()
    return counter.get_total_flops() // 2


def _convolution_backward(
    gradient: Sequence[int], images: Sequence[int], weight: Sequence[int], *options: Any, **_: Any
) -> int:
    # torch's own count takes the gradient of a grouped convolution's weight for that of a dense one.
    transposed, (needs_images, needs_weight, _) = options[4], options[7]
    products = math.prod(images if transposed else gradient) * math.prod(weight[1:])
    return 2 * products * (needs_images + needs_weight)


class _OperatorCounter(TorchDispatchMode):
    """Counts the operators that compute something; views cost no kernel."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def count_operators(part: Part) -> int:
    """Return how many operators one run calls, views left out: what a GPU has to be handed one by one."""
    with _OperatorCounter() as counter:
        part()
    return counter.count
