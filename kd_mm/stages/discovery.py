"""Stages of a network, found by themselves or named, and measured in one dry run."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from kd_mm.stages.discovery_rules import Candidate, find_candidates
from kd_mm.stages.feature_info import TensorLayout
from kd_mm.stages.last_stride import last_stride_in_place
from kd_mm.stages.stage import Stage, stage_table
from kd_mm.stages.tap import Tap, find_module
from kd_mm.stages.trace import ModuleCall, Trace, trace


def discover_stages(
    model: nn.Module,
    inputs: Tensor,
    *,
    names: Sequence[str] | None = None,
    backbone: str = "backbone",
    forward: Callable[[nn.Module, Tensor], Any] | None = None,
) -> list[Stage]:
    """Find and measure the stages of a network's backbone, shallow (1) to deep (N).

    One dry run of the backbone in eval mode, without gradients. Parameters, buffers, training flags, hooks and the
    random state are the same afterwards.

    A stage is the last block at each resolution; what runs before the first block is the stem. A backbone of constant
    resolution gives four stages of equally many blocks. With parallel branches (HRNet) a stage is the coarsest branch.
    Where :func:`kd_mm.stages.last_stride.set_last_stride` took a halving out, the stages are those of the network
    with it: the last two then share a resolution.

    Args:
        model: A network with the backbone as a submodule, e.g. an ``ImageClassifier`` or a detector.
        inputs: A normalised batch ``(B, C, H, W)``; gives shape, dtype and device, its values are not looked at.
        names: Taps to measure instead of searching, in this order, e.g. ``["backbone.layer2", "backbone.layer4"]``.
        backbone: Name of the backbone in ``model``. A wrapper around it, whose only child is ``module``, is opened.
        forward: Runs backbone and neck of ``model``; needed where ``names`` lie outside of the backbone.

    Raises:
        ValueError: No submodule ``backbone``; no two stages found; or an entry of ``names`` that is no module, never
            ran, or gives no feature map. The message lists what is there.
    """
    modules = dict(model.named_modules())
    if backbone not in modules:
        has = ", ".join(name for name, _ in model.named_children())
        raise ValueError(f"{type(model).__name__} has no module {backbone!r} to search for stages; it has {has}")
    if forward is not None and any(not name.startswith(f"{backbone}.") for name in names or ()):
        run = trace(_Features(model, forward), inputs)
        chosen = [_find_named(model, name, backbone, run) for name in names or ()]
        return _measure([candidate for _, candidate in chosen], [text for text, _ in chosen], run, inputs, 0)
    while [name for name, _ in modules[backbone].named_children()] == ["module"]:
        backbone += ".module"  # a wrapper: LoRA, an average of weights, DataParallel
    run = trace(modules[backbone], inputs)
    with last_stride_in_place(modules[backbone]) as put_back:
        unstrided = trace(modules[backbone], inputs) if put_back else run
    candidates, first_block = find_candidates(unstrided.root)
    start = 0 if first_block is None else first_block.start
    taps = [_tap_text(backbone, call, reading, unstrided) for call, reading in candidates]
    if put_back:
        candidates = [_find_named(model, tap, backbone, run)[1] for tap in taps]
    found = _measure(candidates, taps, run, inputs, start)
    if names is None:
        if len(found) < 2:
            raise ValueError(_not_found(model, backbone, run, inputs))
        return found
    try:
        chosen = [_find_named(model, name, backbone, run) for name in names]
    except ValueError as error:
        raise ValueError(f"{error}\nstages found in {type(model).__name__}:\n{stage_table(found)}") from None
    ends = [call.end for _, (call, _) in chosen]
    if ends != sorted(ends):
        raise ValueError(
            f"stages={list(names)}: name them in the order in which the network runs them, shallow ones first"
        )
    texts = [text for text, _ in chosen]
    return _measure([candidate for _, candidate in chosen], texts, run, inputs, start)


class _Features(nn.Module):
    """A network that is run no further than its neck, with its modules under their own names."""

    def __init__(self, model: nn.Module, run: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        self._run = functools.partial(run, model)

    def forward(self, inputs: Tensor) -> Any:
        return self._run(inputs)


def _measure(
    candidates: Sequence[Candidate], taps: Sequence[str], run: Trace, inputs: Tensor, start: int
) -> list[Stage]:
    owners = _parameters_by_moment(run)
    stages = []
    for index, ((call, reading), tap) in enumerate(zip(candidates, taps, strict=True), 1):
        stages.append(
            Stage(
                index=index,
                tap=tap,
                layout=reading.layout,
                channels=reading.channels,
                height=reading.height,
                width=reading.width,
                stride=inputs.shape[-2] / reading.height,
                extra_tokens=reading.extra_tokens,
                post_relu=reading.never_negative and _ends_in_relu(owners, run, call.end),
                params=sum(count for moment, count in owners if start <= moment < call.end),
            )
        )
        start = call.end
    return stages


def _ends_in_relu(owners: Sequence[tuple[int, int]], run: Trace, end: int) -> bool:
    # A normalisation behind the ReLU keeps the sign only as long as it is untrained, so values alone do not tell.
    last_weights = max((moment for moment, _ in owners if moment < end), default=0)
    return any(last_weights < moment <= end for moment in run.relu_moments)


def _parameters_by_moment(run: Trace) -> list[tuple[int, int]]:
    """Return ``(moment, number of elements)`` of each parameter: the first entry of the innermost module that ran."""
    moments: dict[str, int] = {}
    for call in run.root.walk():
        moments.setdefault(call.name, call.start)
    counts = []
    for name, parameter in run.root.module.named_parameters():
        owner = name.rpartition(".")[0]
        while owner not in moments:
            owner = owner.rpartition(".")[0]
        counts.append((moments[owner], parameter.numel()))
    return counts


def _tap_text(backbone: str, call: ModuleCall, reading: TensorLayout, run: Trace) -> str:
    text = f"{backbone}.{call.name}"
    if call.index != len(run.calls_of(call.module)) - 1:
        text += f"#{call.index}"
    return text + "".join(f"[{item}]" for item in reading.items)


def _find_named(model: nn.Module, name: str, backbone: str, run: Trace) -> tuple[str, Candidate]:
    """Return the tap that a config named, completed by ``[item]`` for a tuple, and the call and output it reads."""
    tap = Tap.parse(name)
    module = find_module(model, tap)
    calls = run.calls_of(module)
    if not calls:
        inside = any(module is inner for inner in run.root.module.modules())
        reason = f"never runs in a forward pass of {backbone!r}" if inside else f"lies outside of {backbone!r}"
        raise ValueError(f"stage {name!r} {reason}; name a module that does")
    if not -len(calls) <= tap.call < len(calls):
        raise ValueError(f"stage {name!r} asks for call {tap.call} of a module that runs {len(calls)} times")
    call = calls[tap.call]
    if tap.read_input is not None:
        if call.source is None or tap.items:
            raise ValueError(f"stage {name!r} takes no single feature as input; name a module by its output")
        return name, (call, call.source)
    fitting = [reading for reading in call.outputs if reading.items[: len(tap.items)] == tap.items]
    if not fitting:
        raise ValueError(
            f"stage {name!r} ({type(module).__name__}) gives no feature map (B, C, H, W) or (B, H, W, C) and no patch "
            "tokens (B, L, C); name a module that does"
        )
    chosen = call.primary if call.primary in fitting else fitting[0]
    rest = chosen.items[len(tap.items) :]
    return name + "".join(f"[{item}]" for item in rest), (call, chosen)


def _not_found(model: nn.Module, backbone: str, run: Trace, inputs: Tensor) -> str:
    kind = type(run.root.module).__name__
    height, width = inputs.shape[-2:]
    direct = [
        call
        for call in run.root.walk()
        if call.name.count(".") <= 1 and call.primary is not None and call is not run.root
    ]
    names = ", ".join(dict.fromkeys(f"{backbone}.{call.name}" for call in direct[:24]))
    return (
        f"no stages found in {backbone!r} ({kind} of {type(model).__name__}) with input {height}x{width}; "
        f"name them in the config, stages=[...]; modules with features: {names}"
    )
