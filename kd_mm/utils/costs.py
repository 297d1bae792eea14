"""What a piece of code costs: seconds on two clocks, multiply-adds, calls of operators, memory."""

import math
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

Part = Callable[[], Any]


def time_rounds(
    parts: Mapping[str, Part], device: str, rounds: int, warmup: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Run all parts one after the other, round by round; return wall seconds and CPU seconds of each by name.

    Wall seconds of ``"cuda"`` come from device events. The rounds of the warm-up come first and are not measured.
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
    """Counts the operators that compute something; views and the marks of the profiler cost no kernel."""

    count = of_optimizers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view and func.namespace != "profiler"
        return func(*args, **(kwargs or {}))

    def add_of_optimizers(self, sign: int) -> None:
        """Note that an optimizer's step begins (-1) or ends (1)."""
        self.of_optimizers += sign * self.count


def count_operators(part: Part) -> tuple[int, int]:
    """Return how many operators one run calls, and how many outside of optimizers' steps.

    Views are left out: it is what a GPU has to be handed one by one.
    """
    with _OperatorCounter() as counter:
        before = register_optimizer_step_pre_hook(lambda *_: counter.add_of_optimizers(-1))
        after = register_optimizer_step_post_hook(lambda *_: counter.add_of_optimizers(1))
        try:
            part()
        finally:
            before.remove()
            after.remove()
    return counter.count, counter.count - counter.of_optimizers


class _StorageTracker(TorchDispatchMode):
    """Follows the memory of the tensors that operators make."""

    live = peak = 0

    def __init__(self) -> None:
        super().__init__()
        self._followed: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        given = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        result = func(*args, **(kwargs or {}))
        for tensor in (each for each in tree_leaves(result) if isinstance(each, torch.Tensor)):
            storage = tensor.untyped_storage()
            address, size = storage.data_ptr(), storage.nbytes()
            if size and address not in given and address not in self._followed:
                self._followed.add(address)
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._forget, address, size)
        return result

    def _forget(self, address: int, size: int) -> None:
        self._followed.discard(address)
        self.live -= size


def peak_memory(part: Part, device: str) -> int:
    """Return how many bytes of tensors that one run makes are there at a time, at most.

    Weights, and the state of an optimizer after its first step, were there before and do not count. On CUDA what
    operators need for themselves counts too.
    """
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        part()
        return torch.cuda.max_memory_allocated() - before
    with _StorageTracker() as tracker:
        part()
    return tracker.peak
