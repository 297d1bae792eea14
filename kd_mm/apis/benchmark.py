"""What distillation costs: the training step beside its floor, the plain student's step and the teacher's forward."""

import contextlib
import copy
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from rich.table import Table

from kd_mm.apis.benchmark_parts import DISTILLATION, STUDENT, TEACHER, WITHOUT, build_parts
from kd_mm.apis.run_options import enable_amp
from kd_mm.utils.config import is_distillation
from kd_mm.utils.contexts import isolated_rng
from kd_mm.utils.costs import count_multiply_adds, count_operators, peak_memory, time_rounds
from kd_mm.utils.suggest import choice
from kd_mm.utils.tables import render


def benchmark(
    config: Config,
    device: str = "cpu",
    amp: bool = False,
    batch_size: int | None = None,
    input_size: tuple[int, int] | None = None,
    steps: int = 30,
    warmup: int = 5,
    terms: bool = True,
    channels_last: bool = False,
    clock: str = "auto",
    compiled: bool = False,
) -> dict[str, Any]:
    """Time a distillation config on one resident batch of noise, with random weights; no file is read or written.

    Each round runs, one after the other, the plain student's training step (built from its own config, with its own
    optimizer), the plain teachers' forward (eval, no_grad; a classifier's to its logits, a detector's as deep as it is
    read: backbone, neck or heads), the teachers' forward as the distillation has it, the distillation step, and the
    distillation step without each of the recipe's losses. A round sees one state of the machine, so drift cancels in
    ratios within a round. Learning rates are set to zero, so that every step computes on the same weights.

    Args:
        config: A distillation config of a classifier or a detector. It is left as it is.
        device: ``"cpu"`` or ``"cuda"``; CUDA times come from device events around each step.
        amp: Mixed precision as ``tools/train.py --amp`` has it, for every measured part alike.
        batch_size: Images a step; default ``train_dataloader.batch_size`` of the config.
        input_size: Height and width in pixels; default the ``input_size`` of the Distiller.
        steps: Measured rounds.
        warmup: Rounds before these.
        terms: Whether to time the step without each loss too.
        channels_last: Keep every network of every part in the ``channels_last`` memory format.
        clock: ``"wall"``, or ``"cpu"``, the seconds that the process was at work, which other programs on the machine
            stretch less. ``"auto"``: the latter on the CPU with one thread, where the two are the same on an idle
            machine; threads that wait for others would count too.
        compiled: Run every part through ``torch.compile``: the training steps of student and distillation as mmengine's
            ``compile=True`` does, the plain teachers, and teachers and objective of the distillation. Losses are not
            timed by themselves then, and what is counted is counted without compilation.

    Returns:
        A dict for JSON, beside these the setting. ``parts``: for each measured part ``median``, ``min`` and ``max`` in
        seconds of the clock, ``wall`` and ``cpu``, the medians of both clocks, ``multiply_adds`` of its convolutions
        and matrix products, ``operators``, how many calls of operators it makes, views left out,
        ``gradient_operators``, those of forward and backward without the optimizer's, and ``peak_memory``, bytes of
        the tensors that it makes (weights are not counted). ``ratio``: the distillation step over student step plus
        teacher forward, ``of_medians``, ``paired`` (median over the rounds), ``low`` and ``high`` (its quartiles),
        ``wall`` and ``cpu`` (of medians), and of each of the four counts: what the ratio would be if time were spent on
        these alone, and at one speed. ``terms``: for each loss the ``seconds`` it adds to the step (median over the
        rounds of the difference) and the ``multiply_adds``, with their shares of student step plus teacher forward,
        ``share`` and ``multiply_adds_share``.

    Raises:
        ValueError: No distillation config, no CUDA device, or a number of steps that measures nothing.
    """
    _check(config, device, amp, steps, warmup, clock)
    if compiled and warmup < 1:
        raise ValueError("--compile --warmup 0: the first round compiles; take one round or more before those measured")
    config = copy.deepcopy(config)
    if amp:
        enable_amp(config)
    if clock == "auto":
        clock = "cpu" if device == "cpu" and torch.get_num_threads() == 1 else "wall"
    batch_size = batch_size or config.train_dataloader.batch_size
    if input_size is not None:
        config.model.input_size = tuple(input_size)
    with isolated_rng("benchmark"), DefaultScope.overwrite_default_scope(config.get("default_scope")):
        layout = {"device": device, "memory_format": torch.channels_last if channels_last else torch.preserve_format}
        parts, size = build_parts(config, layout, amp, batch_size, terms and not compiled, compiled)
        wall, cpu = time_rounds(parts, device, steps, warmup)
        # Compiled code hides its operators.
        with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
            operators = {name: count_operators(part) for name, part in parts.items()}
            work = {
                "multiply_adds": {name: count_multiply_adds(part) for name, part in parts.items()},
                "operators": {name: every for name, (every, _) in operators.items()},
                "gradient_operators": {name: others for name, (_, others) in operators.items()},
                "peak_memory": {name: peak_memory(part, device) for name, part in parts.items()},
            }
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "amp": amp,
        "channels_last": channels_last,
        "compiled": compiled,
        "batch_size": batch_size,
        "input_size": list(size),
        "steps": steps,
        "warmup": warmup,
        "clock": clock,
        **summarize({"wall": wall, "cpu": cpu}, work, clock),
    }


def summarize(
    clocks: Mapping[str, Mapping[str, Sequence[float]]], work: Mapping[str, Mapping[str, int]], clock: str
) -> dict[str, Any]:
    """Return ``parts``, ``ratio`` and ``terms`` of :func:`benchmark`, ratios by one ``clock``.

    ``clocks`` are the seconds of each part, round by round, on the clocks ``"wall"`` and ``"cpu"``; ``work`` are
    ``multiply_adds`` and other counts of each part.
    """
    seconds, multiply_adds = clocks[clock], work["multiply_adds"]
    medians = {name: {part: statistics.median(v) for part, v in parts.items()} for name, parts in clocks.items()}
    floor = [student + teacher for student, teacher in zip(seconds[STUDENT], seconds[TEACHER], strict=True)]
    paired = [step / least for step, least in zip(seconds[DISTILLATION], floor, strict=True)]
    low, _, high = statistics.quantiles(paired, n=4) if len(paired) > 1 else paired * 3
    terms = {}
    for name in (name for name in seconds if name.startswith(WITHOUT)):
        added = [step - less for step, less in zip(seconds[DISTILLATION], seconds[name], strict=True)]
        cost, products = statistics.median(added), multiply_adds[DISTILLATION] - multiply_adds[name]
        terms[name.removeprefix(WITHOUT)] = {
            "seconds": cost,
            "share": cost / statistics.median(floor),
            "multiply_adds": products,
            "multiply_adds_share": products / (multiply_adds[STUDENT] + multiply_adds[TEACHER]),
        }
    costs = {**medians, **work}
    parts = {
        name: {"median": medians[clock][name], "min": min(values), "max": max(values)}
        | {kind: cost[name] for kind, cost in costs.items()}
        for name, values in seconds.items()
    }
    ratio = {"of_medians": _ratio(medians[clock]), "paired": statistics.median(paired), "low": low, "high": high}
    ratio |= {kind: _ratio(cost) for kind, cost in costs.items()}
    return {"parts": parts, "ratio": ratio, "terms": terms}


def _ratio(costs: Mapping[str, float]) -> float:
    least = costs[STUDENT] + costs[TEACHER]
    return costs[DISTILLATION] / least if least else float("nan")


def describe(result: Mapping[str, Any]) -> str:
    """Return the result of :func:`benchmark` as text."""
    size = "x".join(str(side) for side in result["input_size"])
    setting = f"{result['device']}, {result['threads']} threads, batch {result['batch_size']}, {size} pixels"
    for key, text in {"amp": "mixed precision", "channels_last": "channels_last", "compiled": "compiled"}.items():
        setting += f", {text}" if result[key] else ""
    clock, other = ("CPU ms", "wall") if result["clock"] == "cpu" else ("wall ms", "cpu")
    title = f"{result['steps']} rounds: {setting}"
    columns = ("part", f"median {clock}", "range", f"{other} ms", "G multiply-adds", "operators", "no optimizer", "MiB")
    parts = Table(*columns, title=title)
    for name, part in result["parts"].items():
        median, least, most, beside = (f"{1000 * part[key]:.1f}" for key in ("median", "min", "max", other))
        counts = (f"{part['multiply_adds'] / 1e9:.2f}", str(part["operators"]), str(part["gradient_operators"]))
        parts.add_row(name, median, f"{least} to {most}", beside, *counts, f"{part['peak_memory'] / 2**20:.1f}")
    of_terms = ("loss", f"adds {clock}", "share of student + teacher", "G multiply-adds", "share")
    terms = Table(*of_terms, title="What each loss adds to the step")
    for name, term in result["terms"].items():
        added = (f"{1000 * term['seconds']:.1f}", f"{term['share']:+.1%}")
        terms.add_row(name, *added, f"{term['multiply_adds'] / 1e9:.2f}", f"{term['multiply_adds_share']:+.1%}")
    ratio = result["ratio"]
    lines = (
        f"overhead ratio, distillation / (student + teacher), of {result['clock']} time: {ratio['of_medians']:.3f} of "
        f"the medians; round by round {ratio['paired']:.3f} (quartiles {ratio['low']:.3f} to {ratio['high']:.3f}); "
        f"of {other} time {ratio[other]:.3f}",
        f"ratio of their multiply-adds: {ratio['multiply_adds']:.3f}; of their calls of operators: "
        f"{ratio['operators']:.3f}, without the optimizer's {ratio['gradient_operators']:.3f}; of their peak memory: "
        f"{ratio['peak_memory']:.3f}",
    )
    return "\n".join((render(parts, *([terms] if result["terms"] else [])), *lines))


def _check(config: Config, device: str, amp: bool, steps: int, warmup: int, clock: str) -> None:
    if "model" not in config or not is_distillation(config):
        raise ValueError("give --distiller RECIPE, or a distillation config, whose model is a kd_mm.Distiller")
    choice("--device", device, ("cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no CUDA device here; use --device cpu")
    if device == "cpu" and amp and torch.cuda.is_available():
        raise ValueError("--device cpu --amp: mixed precision takes the GPU here; hide it (CUDA_VISIBLE_DEVICES=)")
    if steps < 1 or warmup < 0:
        raise ValueError(f"--rounds {steps} --warmup {warmup}: measure at least one round, after none or more")
    if clock not in ("auto", "wall", "cpu") or (clock == "cpu" and device == "cuda"):
        raise ValueError(f"--clock {clock}: choose auto, wall or, on the CPU, cpu")
