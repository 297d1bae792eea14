"""How the benchmark measures its parts: seconds round by round, multiply-adds and operators once; what follows."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from kd_mm.apis.benchmark_parts import DISTILLATION, STUDENT, TEACHER, WITHOUT


def measure(
    parts: Mapping[str, Callable[[], Any]], device: str, steps: int, warmup: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return seconds and CPU seconds of each part, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    cpu: dict[str, list[float]] = {name: [] for name in parts}
    clock = _cuda_seconds if device == "cuda" else _wall_seconds
    for number in range(warmup + steps):
        for name, part in parts.items():
            began = time.process_time()
            elapsed = clock(part)
            if number >= warmup:
                seconds[name].append(elapsed)
                cpu[name].append(time.process_time() - began)
    return seconds, cpu


def count_multiply_adds(parts: Mapping[str, Callable[[], Any]]) -> dict[str, int]:
    """Return the multiply-adds of one run of each part: of convolutions and matrix products, backward included."""
    counts = {}
    backward = {torch.ops.aten.convolution_backward: _convolution_backward}
    for name, part in parts.items():
        with FlopCounterMode(display=False, custom_mapping=backward) as counter:
            part()
        counts[name] = counter.get_total_flops() // 2
    return counts


class _Operators(TorchDispatchMode):
    """Counts the operators that compute something; views cost no kernel."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def count_operators(parts: Mapping[str, Callable[[], Any]]) -> dict[str, int]:
    """Return how many operators one run of each part calls, views left out: what a GPU has to be handed one by one."""
    counts = {}
    for name, part in parts.items():
        with _Operators() as operators:
            part()
        counts[name] = operators.count
    return counts


def _convolution_backward(
    gradient: Sequence[int], images: Sequence[int], weight: Sequence[int], *options: Any, **_: Any
) -> int:
    # The engine's own count takes the gradient of a grouped convolution's weight for that of a dense one.
    transposed, (of_images, of_weight, _of_bias) = options[4], options[7]
    products = math.prod(images if transposed else gradient) * math.prod(weight[1:])
    return 2 * products * (of_images + of_weight)


def summarize(
    seconds: Mapping[str, Sequence[float]],
    other: Mapping[str, Sequence[float]],
    work: Mapping[str, int],
    operators: Mapping[str, int],
    clock: str,
) -> dict[str, Any]:
    """Return ``parts``, ``ratio`` and ``terms`` of :func:`kd_mm.apis.benchmark.benchmark`.

    Args:
        seconds: Seconds of each part, round by round, on the clock that counts.
        other: Those of the other clock.
        work: Multiply-adds of each part.
        operators: Calls of operators of each part.
        clock: The clock that counts, ``"wall"`` or ``"cpu"``.
    """
    clocks = {clock: seconds, {"wall": "cpu", "cpu": "wall"}[clock]: other}
    medians = {name: {part: statistics.median(v) for part, v in kept.items()} for name, kept in clocks.items()}
    floor = [student + teacher for student, teacher in zip(seconds[STUDENT], seconds[TEACHER], strict=True)]
    paired = [whole / least for whole, least in zip(seconds[DISTILLATION], floor, strict=True)]
    low, _, high = statistics.quantiles(paired, n=4) if len(paired) > 1 else paired * 3
    terms = {}
    for name in [name for name in seconds if name.startswith(WITHOUT)]:
        added = [whole - less for whole, less in zip(seconds[DISTILLATION], seconds[name], strict=True)]
        cost, products = statistics.median(added), work[DISTILLATION] - work[name]
        terms[name[len(WITHOUT) :]] = {
            "seconds": cost,
            "share": cost / statistics.median(floor),
            "multiply_adds": products,
            "multiply_adds_share": products / (work[STUDENT] + work[TEACHER]),
        }
    return {
        "parts": {
            name: {
                "median": medians[clock][name],
                "min": min(values),
                "max": max(values),
                "wall": medians["wall"][name],
                "cpu": medians["cpu"][name],
                "multiply_adds": work[name],
                "operators": operators[name],
            }
            for name, values in seconds.items()
        },
        "ratio": {
            "of_medians": _ratio(medians[clock]),
            "paired": statistics.median(paired),
            "low": low,
            "high": high,
            "wall": _ratio(medians["wall"]),
            "cpu": _ratio(medians["cpu"]),
            "multiply_adds": _ratio(work),
            "operators": _ratio(operators),
        },
        "terms": terms,
    }


def _ratio(costs: Mapping[str, float]) -> float:
    least = costs[STUDENT] + costs[TEACHER]
    return costs[DISTILLATION] / least if least else float("nan")


def _wall_seconds(part: Callable[[], Any]) -> float:
    began = time.perf_counter()
    part()
    return time.perf_counter() - began


def _cuda_seconds(part: Callable[[], Any]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    part()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000
