"""Exporting the student of a run: a plain checkpoint, the plain config beside it, and ONNX where asked for."""

from __future__ import annotations

import importlib.util
import inspect
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

import kd_mm
from kd_mm.apis.evaluate import plain_config
from kd_mm.apis.stages import config_input_size
from kd_mm.distillers.checkpoint import fill, network_weights, read_checkpoint
from kd_mm.distillers.teacher import load_config, teacher_model_config
from kd_mm.hooks.atomic_files import replace_file
from kd_mm.registry import MODELS

#: Largest accepted difference between onnxruntime and torch, relative to the largest torch output (at least 1).
ONNX_TOLERANCE = 1e-4
#: Batch sizes that the ONNX file is checked with; it was traced with another one.
ONNX_BATCHES = (1, 3)
_TRACED_BATCH = 2
_ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
# What a Runner or a command line leaves in a dumped config and what belongs to one run alone.
_OF_ONE_RUN = ("work_dir", "launcher", "resume", "env_variables")


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        checkpoint: The plain checkpoint.
        config: The plain config.
        tensors: Number of tensors in the checkpoint.
        weights: Which weights were taken: ``"stored"``, ``"ema"`` or ``"raw"``.
        onnx: The ONNX file, if one was asked for.
        onnx_difference: Largest difference between onnxruntime and torch, relative to the largest output.
    """

    checkpoint: Path
    config: Path
    tensors: int
    weights: str
    onnx: Path | None = None
    onnx_difference: float | None = None


def export_student(
    config: str,
    checkpoint: str,
    out: str | Path,
    options: dict[str, Any] | None = None,
    ema: bool | None = None,
    onnx: str | Path | None = None,
    input_size: tuple[int, int] | None = None,
) -> Exported:
    """Write the student of a distillation run, or the network of a plain run, so that it needs nothing of the run.

    The checkpoint holds ``state_dict`` with exactly the keys of the plain network and ``meta`` of plain types
    (``torch.load(weights_only=True)`` reads it); the config stands beside it under the same name, ending ``.py``. Each
    file appears whole or not at all.

    Args:
        config: A distillation config or a plain one: a path, or ``package::path``.
        checkpoint: Any checkpoint of a run of it; every weight of the network must be in it.
        out: The checkpoint to write, ``.pth`` or ``.pt``.
        options: Overrides of config keys.
        ema: With an EMA hook mmengine stores the averaged weights as ``state_dict`` and the raw ones as
            ``ema_state_dict``. ``True`` takes the average and insists that there is one, ``False`` the raw weights,
            ``None`` (default) what stands in ``state_dict``, which is what validation measured.
        onnx: An ONNX file to write as well. Its input is the normalised batch ``(B, 3, H, W)``, its outputs are those
            of ``tensor`` mode; B is free.
        input_size: Height and width in pixels for ONNX; default: from the config's test pipeline, else 224.

    Raises:
        FileNotFoundError: No such config or checkpoint.
        ValueError: The checkpoint does not fit, has no EMA weights, or the ONNX file disagrees with torch.
        ImportError: A package that ONNX needs is missing; nothing was written.
    """
    out = Path(out).expanduser()
    _check_targets(out, onnx)
    source = load_config(config)
    if options:
        source.merge_from_dict(options)
    text = exported_config(source).pretty_text
    stored = read_checkpoint(checkpoint)
    weights, kind = _chosen_weights(stored, ema, checkpoint)
    # Built from the very text that is written: what is exported is known to build.
    plain = Config.fromstring(text, ".py")
    model_config, scope = teacher_model_config(plain)
    with DefaultScope.overwrite_default_scope(scope):
        model: nn.Module = MODELS.build(model_config)
    fill(model, weights, "student", checkpoint)
    state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    meta = {**_plain_meta(stored), "source": Path(checkpoint).name, "weights": kind, "kd_mm_version": kd_mm.__version__}
    replace_file(out, _saved({"meta": meta, "state_dict": state}))
    beside = out.with_suffix(".py")
    replace_file(beside, text.encode())
    if onnx is None:
        return Exported(out, beside, len(state), kind)
    size = input_size or config_input_size(plain) or (224, 224)
    try:
        difference = export_onnx(model, size, onnx)
    except ValueError as error:
        raise ValueError(f"{out} and {beside} were written, but no ONNX file: {error}") from error
    return Exported(out, beside, len(state), kind, Path(onnx), difference)


def exported_config(config: Config) -> Config:
    """Return the plain config of the student, without what belongs to distillation or to one run.

    A config that names no component of kd_mm does not import kd_mm either, so upstream's own tools run it.
    """
    plain = plain_config(config)
    for key in _OF_ONE_RUN:
        plain._cfg_dict.pop(key, None)
    wrapper = plain.get("optim_wrapper") or {}
    if wrapper.get("type") == "kd_mm.Bf16OptimWrapper":
        wrapper.update(type="AmpOptimWrapper", dtype="bfloat16")
    return plain


def export_onnx(model: nn.Module, input_size: tuple[int, int], path: str | Path) -> float:
    """Write a network in ``tensor`` mode as ONNX with a free batch size, once onnxruntime has agreed with torch.

    Args:
        model: A network with mmengine's ``forward(inputs, mode="tensor")``; put into eval mode on the CPU.
        input_size: Height and width in pixels.
        path: The file.

    Returns:
        The largest difference, relative to the largest torch output (at least 1), over :data:`ONNX_BATCHES`.

    Raises:
        ImportError: A package is missing.
        ValueError: The network cannot be traced with a free batch size, or the difference exceeds
            :data:`ONNX_TOLERANCE`; nothing was written.
    """
    _require_onnx()
    network = _TensorMode(model).cpu().eval()
    content = _traced(network, torch.randn(_TRACED_BATCH, 3, *input_size))
    differences = {batch: _difference(network, content, input_size, batch) for batch in ONNX_BATCHES}
    for batch, difference in differences.items():
        if not difference <= ONNX_TOLERANCE:
            raise ValueError(
                f"torch's exporter gets this network wrong: with a batch of {batch} onnxruntime differs from torch by "
                f"{difference:.2g} of the largest output, more than {ONNX_TOLERANCE:g}"
            )
    replace_file(path, content)
    return max(differences.values())


class _TensorMode(nn.Module):
    """A network with the outputs of ``tensor`` mode as one flat tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(_tensors(self.model(inputs, mode="tensor")))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _traced(network: nn.Module, inputs: Tensor) -> bytes:
    arguments: dict[str, Any] = {"input_names": ["inputs"]}
    try:
        with torch.no_grad():
            if "dynamo" in inspect.signature(torch.onnx.export).parameters:
                batch = torch.export.Dim("batch")
                program = torch.onnx.export(
                    network, (inputs,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False, **arguments
                )
                if program is None:
                    raise RuntimeError("torch gave no ONNX program")
                return program.model_proto.SerializeToString()
            buffer: Any = io.BytesIO()  # torch 2.4
            torch.onnx.export(network, (inputs,), buffer, dynamic_axes={"inputs": {0: "batch"}}, **arguments)
            return buffer.getvalue()
    except Exception as error:  # the exporter raises its own types, one for each of its steps
        cause = error.__cause__ or error
        reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
        raise ValueError(
            f"torch cannot export this network with a free batch size: {type(cause).__name__}: {reason}"
        ) from error


def _difference(network: nn.Module, content: bytes, input_size: tuple[int, int], batch: int) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    inputs = torch.randn(batch, 3, *input_size, generator=torch.Generator().manual_seed(batch))
    try:
        answers = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    except Exception as error:  # onnxruntime's types are not public
        first = str(error).splitlines()[0]
        raise ValueError(f"onnxruntime cannot run the file with a batch of {batch}: {first}") from error
    with torch.no_grad():
        expected = [tensor.float().numpy() for tensor in network(inputs)]
    largest = 0.0
    for answer, reference in zip(answers, expected, strict=True):
        if answer.shape != reference.shape:
            raise ValueError(f"onnxruntime gives {answer.shape}, torch {reference.shape}, for a batch of {batch}")
        scale = max(1.0, float(np.abs(reference).max()))
        largest = max(largest, float(np.abs(answer - reference).max()) / scale)
    return largest


def _require_onnx() -> None:
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'--onnx needs {", ".join(missing)}: pip install "kd-mm[onnx]"')


def _check_targets(out: Path, onnx: str | Path | None) -> None:
    if out.suffix not in (".pth", ".pt"):
        raise ValueError(f"cannot export to {out}: give a .pth file; the config is written beside it as .py")
    if onnx is not None:
        _require_onnx()
        if Path(onnx).suffix != ".onnx":
            raise ValueError(f"--onnx {onnx}: give a file that ends in .onnx")


def _chosen_weights(stored: Mapping[str, Any], ema: bool | None, origin: str) -> tuple[dict[str, Tensor], str]:
    if ema is None:
        return network_weights(stored), "stored"
    if "ema_state_dict" not in stored:
        option = "--ema" if ema else "--no-ema"
        raise ValueError(
            f"{option}: {origin} has no EMA weights (the run had no EMAHook, or this file was exported already); "
            "drop the option"
        )
    # mmengine's EMAHook swaps the two when it saves.
    if ema:
        return network_weights(stored), "ema"
    prefix = "module."
    raw = {key[len(prefix) :]: value for key, value in stored["ema_state_dict"].items() if key.startswith(prefix)}
    return network_weights({"state_dict": raw}), "raw"


def _plain_meta(stored: Mapping[str, Any]) -> dict[str, Any]:
    meta = stored.get("meta") or {}
    return {key: _plain(meta[key]) for key in ("dataset_meta", "CLASSES", "PALETTE", "epoch", "iter") if key in meta}


def _plain(value: Any) -> Any:
    """Return a value in types that ``torch.load(weights_only=True)`` reads everywhere."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value) if type(value) in (list, tuple) else [*map(_plain, value)]
    if isinstance(value, set | frozenset):
        return sorted(map(_plain, value))
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _saved(checkpoint: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()
