"""Exporting the student of a run: a plain checkpoint, the plain config beside it, and ONNX where asked for."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

import kd_mm
from kd_mm.apis.evaluate import plain_config
from kd_mm.apis.explain import explaining
from kd_mm.apis.onnx_export import export_onnx, require_onnx
from kd_mm.apis.stages import config_input_size
from kd_mm.distillers.teacher import teacher_model_config
from kd_mm.engine.atomic_files import replace_file
from kd_mm.registry import MODELS
from kd_mm.utils.checkpoint import distill_state_dict, fill, read_checkpoint, student_state_dict
from kd_mm.utils.config import load_config
from kd_mm.utils.suggest import nearest

# What a Runner or a command line leaves in a dumped config and what belongs to one run alone.
_OF_ONE_RUN = ("work_dir", "launcher", "resume", "env_variables")


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        checkpoint: The plain checkpoint.
        config: The plain config.
        tensors: Number of tensors in the checkpoint.
        weights: Which weights were taken: ``"stored"``, ``"ema"``, ``"raw"`` or ``"teacher <name>"``.
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
    teacher: str | None = None,
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
        teacher: Name of a teacher that followed the student (:class:`kd_mm.distillers.EMATeacher`), to be written in
            the student's place.

    Raises:
        FileNotFoundError: No such config or checkpoint.
        ValueError: The checkpoint does not fit, has no EMA weights or no such teacher, or the ONNX file disagrees with
            torch.
        ImportError: A package that ONNX needs is missing; nothing was written.
    """
    out = Path(out).expanduser()
    check_target(out)
    _check_onnx(onnx)
    source = load_config(config)
    if options:
        source.merge_from_dict(options)
    text = exported_config(source).pretty_text
    stored = read_checkpoint(checkpoint)
    if teacher is None:
        state, kind = chosen_weights(stored, ema, checkpoint)
    else:
        state, kind = _followed(stored, teacher, ema, checkpoint), f"teacher {teacher}"
    # Built from the very text that is written: what is exported is known to build.
    plain = Config.fromstring(text, ".py")
    model_config, scope = teacher_model_config(plain)
    with explaining(plain), DefaultScope.overwrite_default_scope(scope):
        model: nn.Module = MODELS.build(model_config)
    fill(model, student_state_dict(state), "student", checkpoint)
    state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    meta = {**plain_meta(stored), "source": Path(checkpoint).name, "weights": kind, "kd_mm_version": kd_mm.__version__}
    replace_file(out, saved({"meta": meta, "state_dict": state}))
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

    It imports kd_mm where it names a component of kd_mm, and only there: else upstream's own tools run it without.
    """
    distills = str(config.model.type).endswith("Distiller")
    plain = plain_config(config)
    for key in _OF_ONE_RUN:
        plain._cfg_dict.pop(key, None)
    if distills and plain.get("custom_hooks"):
        plain.custom_hooks = [hook for hook in plain.custom_hooks if not str(hook.get("type")).startswith("kd_mm.")]
    wrapper = plain.get("optim_wrapper") or {}
    if wrapper.get("type") == "kd_mm.Bf16OptimWrapper":
        wrapper.update(type="AmpOptimWrapper", dtype="bfloat16")
    _forget_scope(plain._cfg_dict)
    imports = [name for name in (config.get("custom_imports") or {}).get("imports", []) if name != "kd_mm"]
    if "kd_mm." in json.dumps(plain._cfg_dict.to_dict(), default=str):
        imports.append("kd_mm")
    plain._cfg_dict.pop("custom_imports", None)
    if imports:
        plain.custom_imports = {"imports": imports, "allow_failed_imports": False}
    return plain


def _forget_scope(part: Any) -> None:
    """Remove the mark that mmengine leaves on what was inherited through ``kd_mm::``; types there are written out."""
    if isinstance(part, dict):
        if part.get("_scope_") == "kd_mm":
            del part["_scope_"]
        part = list(part.values())
    if isinstance(part, list | tuple):
        for item in part:
            _forget_scope(item)


def check_target(out: Path) -> None:
    """Stop where the config could not stand beside the checkpoint.

    Raises:
        ValueError: The checkpoint has another ending than ``.pth`` or ``.pt``.
    """
    if out.suffix not in (".pth", ".pt"):
        raise ValueError(f"cannot export to {out}: give a .pth file; the config is written beside it as .py")


def _check_onnx(onnx: str | Path | None) -> None:
    if onnx is not None:
        require_onnx()
        if Path(onnx).suffix != ".onnx":
            raise ValueError(f"--onnx {onnx}: give a file that ends in .onnx")


def chosen_weights(stored: Mapping[str, Any], ema: bool | None, origin: str) -> tuple[dict[str, Any], str]:
    """Return the weights of a checkpoint that are wanted, student and distillation, and what they are.

    Args:
        stored: What the checkpoint holds.
        ema: See :func:`export_student`.
        origin: Its file, for messages.

    Raises:
        ValueError: It has no EMA weights, and they or those beside them were asked for.
    """
    if ema is None:
        return dict(stored), "stored"
    if "ema_state_dict" not in stored:
        option = "--ema" if ema else "--no-ema"
        raise ValueError(
            f"{option}: {origin} has no EMA weights (the run had no EMAHook, or this file was exported already); "
            "drop the option"
        )
    # mmengine's EMAHook swaps the two when it saves.
    if ema:
        return dict(stored), "ema"
    prefix = "module."
    raw = {key[len(prefix) :]: value for key, value in stored["ema_state_dict"].items() if key.startswith(prefix)}
    return {"state_dict": raw}, "raw"


def _followed(stored: Mapping[str, Any], teacher: str, ema: bool | None, origin: str) -> dict[str, Any]:
    if ema is not None:
        raise ValueError(f"--teacher {teacher} is an average of its own: leave --ema and --no-ema out")
    weights = distill_state_dict(stored, f"teachers.{teacher}.model.")
    if not weights:
        held = {key.split(".")[2] for key in stored.get("state_dict", {}) if key.startswith("distill.teachers.")}
        raise ValueError(
            f"--teacher {teacher}: {origin} holds no such teacher, only those that followed the student"
            f"{nearest(teacher, sorted(held))}"
        )
    return {"state_dict": weights}


def plain_meta(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an exported checkpoint says of its run, in plain types."""
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


def saved(checkpoint: dict[str, Any]) -> bytes:
    """Return a checkpoint as the content of a file."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()
