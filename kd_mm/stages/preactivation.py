"""What a stage's values are before the ReLU that ends it, and the batch norm that made them."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.stages.stage import Stage
from kd_mm.stages.tap import Tap, child, find_module
from kd_mm.utils.channels import input_channels
from kd_mm.utils.contexts import eval_mode

_RELUS = (nn.ReLU, nn.ReLU6)
_SHORTCUTS = ("downsample", "shortcut", "identity", "skip")


@dataclass(frozen=True)
class BeforeReLU:
    """Where a stage is read before its ReLU.

    Attributes:
        tap: Tap text of the values ``(B, C, H, W)``.
        norm: The batch norm of C channels that gives them, or gives the last summand of the main branch; ``None`` where
            there is none.
    """

    tap: str
    norm: nn.BatchNorm2d | None


@dataclass(frozen=True)
class _Event:
    name: str
    call: int
    module: nn.Module
    source: Tensor
    result: Tensor


def before_relu(model: nn.Module, stages: Sequence[Stage]) -> list[BeforeReLU | None]:
    """Find the values of each stage before the ReLU that ends it, in one dry run.

    Where a stage's output is that of a ``nn.ReLU`` module, they are its input. Where it is not, but goes into a batch
    norm with a ReLU behind (networks with pre-activation), they are what the batch norm gives. The ReLU is made to work
    out of place, because a tap on its input would otherwise see its output; nothing else of the network is changed.

    Args:
        model: A network whose stages lie in its backbone.
        stages: Stages of it, measured.

    Returns:
        One for each stage; ``None`` where there is no such module, e.g. in a transformer, behind a linear bottleneck or
        where the network calls the function instead.
    """
    recorded, events = _watch(model, stages)
    return [_find(output, events) for output in recorded]


def _find(recorded: Tensor | None, events: list[_Event]) -> BeforeReLU | None:
    relus = [event for event in events if isinstance(event.module, _RELUS)]
    norms = [event for event in events if isinstance(event.module, nn.modules.batchnorm._BatchNorm)]
    ends = [event for event in relus if event.result is recorded]
    if ends:
        ends[-1].module.inplace = False  # type: ignore[assignment]
        return BeforeReLU(_text(ends[-1], events, ":in"), _main_norm(ends[-1], events))
    opening = [event for event in norms if event.source is recorded and recorded is not None]
    for norm in opening:
        behind = next((event for event in relus if event.source is norm.result), None)
        if behind is not None:
            behind.module.inplace = False  # type: ignore[assignment]
            return BeforeReLU(_text(norm, events), norm.module)  # type: ignore[arg-type]
    return None


def _watch(model: nn.Module, stages: Sequence[Stage]) -> tuple[list[Tensor | None], list[_Event]]:
    """Run the backbone once; return the stages' outputs and the calls of ReLU and batch norm modules in order."""
    taps = [Tap.parse(stage.tap) for stage in stages]
    trunk: Any = next((part for name in ("backbone", "model") if (part := child(model, name)) is not None), model)
    recorded: list[list[Tensor]] = [[] for _ in stages]
    events: list[_Event] = []
    counts: Counter[str] = Counter()

    def watch(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and args and isinstance(args[0], Tensor):
            events.append(_Event(name, counts[name], module, args[0], output))
        counts[name] += 1

    def keep(tap: Tap, outputs: list[Tensor], module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        outputs.append(tap.select(output))

    weight, last = next(model.parameters()), stages[-1]
    size = (round(last.height * last.stride), round(last.width * last.stride))
    with ExitStack() as hooks, eval_mode(model):
        for name, module in model.named_modules():
            if isinstance(module, (*_RELUS, nn.modules.batchnorm._BatchNorm)):
                hooks.enter_context(module.register_forward_hook(partial(watch, name)))
        for tap, outputs in zip(taps, recorded, strict=True):
            hooks.enter_context(find_module(model, tap).register_forward_hook(partial(keep, tap, outputs)))
        trunk(torch.rand(2, input_channels(model), *size).to(weight))
    calls = zip(taps, recorded, strict=True)
    return [outputs[tap.call] if -len(outputs) <= tap.call < len(outputs) else None for tap, outputs in calls], events


def _text(event: _Event, events: list[_Event], side: str = "") -> str:
    calls = sum(other.name == event.name for other in events)
    return f"{event.name}{side}" + (f"#{event.call}" if event.call != calls - 1 else "")


def _main_norm(end: _Event, events: list[_Event]) -> nn.BatchNorm2d | None:
    """Return the norm between the last two ReLUs of this width; of several the first that is on no shortcut."""
    shape, found = end.result.shape, []
    for event in reversed(events[: events.index(end)]):
        if event.result.shape != shape:
            continue
        if isinstance(event.module, _RELUS):
            break
        found.append(event)
    main = [e for e in reversed(found) if not any(word in e.name for word in _SHORTCUTS)]
    chosen = main or found[::-1]
    return chosen[0].module if chosen else None  # type: ignore[return-value]
