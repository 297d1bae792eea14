"""One dry run of a network, written down as the tree of its module calls. The network is left as it was."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from kd_mm.stages.feature_info import TensorLayout, TracedBatch

_RELU_FUNCTIONS = ("relu", "relu_", "relu6", "relu6_", "hardtanh", "hardtanh_")  # nn.ReLU6 is a hardtanh from 0 to 6


@dataclass(eq=False)
class ModuleCall:
    """One call of one module in the dry run.

    Attributes:
        name: Dotted name of the module within the traced network, ``""`` for the network itself.
        module: The module.
        index: Which call of this module, from 0.
        start: Moment of entry; entries and exits share one count.
        end: Moment of exit.
        source: The first feature that the module took, if any.
        outputs: All features that it returned.
        parent: The call in which this one happened.
        children: Calls made directly by this one, in order.
        returns_last_child: What it returned is the very tensor that its last child returned.
    """

    name: str
    module: nn.Module
    index: int
    start: int
    parent: "ModuleCall | None" = None
    end: int = -1
    source: TensorLayout | None = None
    outputs: list[TensorLayout] = field(default_factory=list)
    children: list["ModuleCall"] = field(default_factory=list)
    returns_last_child: bool = False
    _returned: "weakref.ref[Tensor] | None" = None

    @property
    def primary(self) -> TensorLayout | None:
        """The output that stands for this call: its first map, else its last tokens (the later half of a reversible
        pair, the coarser stream of a nested one)."""
        maps = [reading for reading in self.outputs if reading.layout != "tokens"]
        if maps:
            return maps[0]
        return self.outputs[-1] if self.outputs else None

    @property
    def branches(self) -> bool:
        """Whether it returned maps of several resolutions at once, as the modules of HRNet do."""
        maps = all(reading.layout == "map" for reading in self.outputs)
        return maps and len({reading.cells for reading in self.outputs}) > 1

    def walk(self) -> Iterator["ModuleCall"]:
        """Yield this call and all calls below it, in order of entry."""
        yield self
        for child in self.children:
            yield from child.walk()

    def weight_count(self) -> int:
        """Number of parameters of the module, all it contains included."""
        return sum(parameter.numel() for parameter in self.module.parameters())


@dataclass(frozen=True)
class Trace:
    """A dry run: the call of the network itself, and the moments at which a ReLU was applied, as module or function."""

    root: ModuleCall
    relu_moments: tuple[int, ...]

    def calls_of(self, module: nn.Module) -> list[ModuleCall]:
        """Return all calls of one module, in order."""
        return [call for call in self.root.walk() if call.module is module]


class _Tracer(TorchFunctionMode):
    def __init__(self, frame: TracedBatch) -> None:
        super().__init__()
        self.frame = frame
        self.clock = 0
        self.relu_moments: list[int] = []
        self.stack: list[ModuleCall] = []
        self.counts: dict[str, int] = {}
        self.root: ModuleCall | None = None

    def enter(self, name: str, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        index = self.counts.get(name, 0)
        self.counts[name] = index + 1
        parent = self.stack[-1] if self.stack else None
        call = ModuleCall(name, module, index, self.clock, parent)
        call.source = next(iter(self.frame.read([*args, *kwargs.values()])), None)
        self.clock += 1
        if parent is None:
            self.root = call
        else:
            parent.children.append(call)
        self.stack.append(call)

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        call = self.stack.pop()
        call.end = self.clock
        self.clock += 1
        call.outputs = self.frame.read(output, (args, kwargs))
        if isinstance(output, Tensor):
            call._returned = weakref.ref(output)
            last = call.children[-1]._returned if call.children else None
            call.returns_last_child = last is not None and last() is output

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # Functional calls pass here too, which leave no module call behind.
        if getattr(func, "__name__", "") in _RELU_FUNCTIONS:
            self.relu_moments.append(self.clock)
        return func(*args, **(kwargs or {}))

    def attach(self, name: str, module: nn.Module) -> list[RemovableHandle]:
        # Reading asks a tensor for much, and each question would pass through `__torch_function__`.
        def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            with torch._C.DisableTorchFunction():
                self.enter(name, module, args, kwargs)

        def after(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            with torch._C.DisableTorchFunction():
                self.leave(args, kwargs, output)

        return [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after, with_kwargs=True),
        ]


@contextmanager
def _untouched(network: nn.Module, device: torch.device) -> Iterator[None]:
    # `train()` of upstream networks does more than to set a flag: some make and drop caches in it, some freeze parts.
    # So it is called, and afterwards all plain attributes of all modules, the flags among them, are put back.
    attributes = [(module, dict(vars(module))) for module in network.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            network.eval()
            yield
    finally:
        for module, values in attributes:
            vars(module).clear()
            vars(module).update(values)
        for parameter, flag in trainable:
            parameter.requires_grad = flag


def trace(network: nn.Module, inputs: Tensor) -> Trace:
    """Run ``network`` once in eval mode and write down its module calls.

    Training flags, buffers, hooks and the random state are the same afterwards. The values of ``inputs``
    ``(B, C, H, W)`` do not matter: noise of their shape, dtype and device is run, two images at least, because an
    all-zero image has no signs and with one image the windows of an attention look like the batch.
    """
    shape = (max(2, inputs.shape[0]), *inputs.shape[1:])
    dtype = inputs.dtype if inputs.is_floating_point() else torch.float32
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(inputs.device, dtype)
    tracer = _Tracer(TracedBatch(shape[0], shape[-2], shape[-1]))
    with ExitStack() as stack:
        stack.enter_context(_untouched(network, inputs.device))
        for name, module in network.named_modules():
            for handle in tracer.attach(name, module):
                stack.enter_context(handle)
        with tracer:
            network(noise)
    if tracer.root is None:
        raise RuntimeError(f"{type(network).__name__} was not called")
    return Trace(tracer.root, tuple(tracer.relu_moments))
