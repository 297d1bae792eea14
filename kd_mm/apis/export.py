"""Exporting the student of a run: a plain checkpoint and config, and ONNX where asked for."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import find_latest_checkpoint
from torch import Tensor

import kd_mm
from kd_mm.apis.evaluate import plain_config
from kd_mm.apis.recipes import task_of
from kd_mm.apis.runner import read_config
from kd_mm.apis.stages import config_input_size
from kd_mm.checks.config import check_config
from kd_mm.utils.atomic_files import replace_file, save_atomically
from kd_mm.utils.checkpoint import distill_state_dict, fill, read_checkpoint, student_state_dict
from kd_mm.utils.config import build_network, is_distillation, parts_of
from kd_mm.utils.onnx import require_onnx, to_onnx
from kd_mm.utils.suggest import nearest

# What a Runner or a command line leaves in a dumped config and what belongs to one run alone.
_RUN_KEYS = ("work_dir", "launcher", "resume", "env_variables")


@dataclass(frozen=True)
class Exported:
    """Files and properties of an export.

    Attributes:
        checkpoint: The plain checkpoint.
        config: The plain config.
        tensors: Number of tensors in the checkpoint.
        weights: Which weights were exported: ``"stored"`` or ``"teacher <name>"``.
        onnx: The ONNX file, if one was asked for.
        onnx_difference: Largest difference between onnxruntime and torch, relative to the largest output.
        costs: Of an export with exits: parameters and multiply-adds of ``"student alone"`` and ``"all exits"``.
        input_size: Height and width in pixels at which these are counted.
    """

    checkpoint: Path
    config: Path
    tensors: int
    weights: str
    onnx: Path | None = None
    onnx_difference: float | None = None
    costs: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    input_size: tuple[int, int] | None = None


def export_trained(config: Config) -> None:
    """Write ``student.pth`` and ``student.py`` of a finished distillation into its work dir, for upstream's tools.

    Args:
        config: That was trained. Of a plain one nothing is written.
    """
    folder, stored = Path(config.work_dir), find_latest_checkpoint(config.work_dir)
    if is_distillation(config) and stored and is_main_process():
        export_student(str(folder / Path(config.filename).name), stored, folder / "student.pth")
        print(f"{folder / 'student.pth'}, {folder / 'student.py'}: the student alone, for upstream's tools")


def export_student(
    config: str,
    checkpoint: str,
    out: str | Path,
    options: dict[str, Any] | None = None,
    onnx: str | Path | None = None,
    input_size: tuple[int, int] | None = None,
    teacher: str | None = None,
) -> Exported:
    """Write the student of a distillation run, or the network of a plain run, so that it needs nothing of the run.

    The checkpoint holds ``state_dict`` with exactly the keys of the plain network and ``meta`` of plain types
    (``torch.load(weights_only=True)`` reads it); the config stands beside it under the same name, ending ``.py``. Each
    file is written atomically. Of a run with mmengine's ``EMAHook`` it holds the average, which validation measured.

    Args:
        config: A distillation config or a plain one: a path, or ``package::path``.
        checkpoint: Any checkpoint of a run of it; every weight of the network must be in it.
        out: The checkpoint to write, ``.pth`` or ``.pt``.
        options: Overrides of config keys.
        onnx: An ONNX file to write as well. Its input is the normalised batch ``(B, C, H, W)``, its outputs are those
            of ``tensor`` mode; B is free.
        input_size: Height and width in pixels for ONNX; default: from the config's test pipeline, else 224.
        teacher: Name of a teacher that followed the student (:class:`kd_mm.distillers.EMATeacher`), to be written in
            place of the student.

    Raises:
        FileNotFoundError: No such config or checkpoint.
        ValueError: The checkpoint does not fit or has no such teacher, or the ONNX file disagrees with torch.
        ImportError: A package that ONNX needs is missing; nothing was written.
    """
    out = check_target(out, config, checkpoint)
    if onnx is not None:
        require_onnx()
        if not isinstance(onnx, str | Path) or Path(onnx).suffix != ".onnx":
            raise ValueError(f"onnx={onnx}: give a file that ends in .onnx")
    plain, stored = exported_config(read_config(config, options)), read_checkpoint(checkpoint)
    state, kind = stored, "stored"
    if teacher is not None:
        state, kind = {"state_dict": distill_state_dict(stored, f"teachers.{teacher}.model.")}, f"teacher {teacher}"
        if not state["state_dict"]:
            held = {key.split(".")[2] for key in stored.get("state_dict", {}) if key.startswith("distill.teachers.")}
            raise ValueError(
                f"--teacher {teacher}: {checkpoint} holds no such teacher, only those that followed the student"
                f"{nearest(teacher, sorted(held))}"
            )
    text = plain.pretty_text
    # Built from the very text that is written: what is exported is known to build.
    plain = Config.fromstring(text, ".py")
    check_config(plain, ["model"])
    model = build_network(plain)
    fill(model, student_state_dict(state), "student", checkpoint)
    beside = write_export(out, text, model.state_dict(), stored, checkpoint, kind)
    tensors = len(model.state_dict())
    if onnx is None:
        return Exported(out, beside, tensors, kind)
    size = input_size or config_input_size(plain) or (224, 224)
    try:
        content, difference = to_onnx(model, size)
    except ValueError as error:
        raise ValueError(f"{out} and {beside} were written, but no ONNX file: {error}") from error
    replace_file(onnx, content)
    return Exported(out, beside, tensors, kind, Path(onnx), difference)


def exported_config(config: Config) -> Config:
    """Return the plain config of the student, without what belongs to distillation or to one run.

    It imports kd_mm where it names a component of kd_mm, and only there: else upstream's own tools run it without.
    """
    plain = plain_config(config)
    for key in _RUN_KEYS:
        plain.pop(key, None)
    if is_distillation(config) and plain.get("custom_hooks"):
        plain.custom_hooks = [hook for hook in plain.custom_hooks if not str(hook.get("type")).startswith("kd_mm.")]
    wrapper = plain.get("optim_wrapper") or {}
    if wrapper.get("type") == "kd_mm.Bf16OptimWrapper":
        wrapper.update(type="AmpOptimWrapper", dtype="bfloat16")
    scope = f"{plain.get('default_scope')}."
    for _, part in parts_of(dict(plain.items())):
        # mmengine's mark on what was inherited through kd_mm::, types there are written out.
        if isinstance(part, dict) and part.get("_scope_") in ("kd_mm", scope[:-1]):
            del part["_scope_"]
        # Upstream's inferencers look for the step LoadImageFromFile under this name. Classes have longer paths.
        if isinstance(part, dict) and re.fullmatch(rf"{re.escape(scope)}\w+", str(part.get("type"))):
            part["type"] = part["type"].removeprefix(scope)
    if task_of(plain) == "detection":  # mmdet's DetInferencer draws by it
        plain.setdefault("visualizer", {"type": "DetLocalVisualizer", "name": "visualizer"})
    imports = [name for name in (config.get("custom_imports") or {}).get("imports", []) if name != "kd_mm"]
    if "kd_mm." in json.dumps(plain.to_dict(), default=str):
        imports.append("kd_mm")
    plain.pop("custom_imports", None)
    if imports:
        plain.custom_imports = {"imports": imports, "allow_failed_imports": False}
    return plain


def check_target(out: str | Path, *read: str) -> Path:
    """Return the path of a checkpoint to write, beside which a config is written.

    Raises:
        ValueError: Another ending than ``.pth`` or ``.pt``, or one of the two would replace a file that is read.
    """
    out = Path(out).expanduser()
    if out.suffix not in (".pth", ".pt"):
        raise ValueError(f"cannot export to {out}: give a .pth file; the config is written beside it as .py")
    for target in (out, out.with_suffix(".py")):
        if target.resolve() in [Path(file).expanduser().resolve() for file in read]:
            raise ValueError(f"cannot export to {out}: it would replace {target}, which is read; give another name")
    return out


def write_export(
    out: Path, config: str, weights: Mapping[str, Tensor], stored: Mapping[str, Any], origin: str, kind: str
) -> Path:
    """Write a checkpoint and the config beside it; return the path of the config."""
    run = stored.get("meta") or {}
    meta = {key: _plain(run[key]) for key in ("dataset_meta", "CLASSES", "PALETTE", "epoch", "iter") if key in run}
    meta |= {"source": Path(origin).name, "weights": kind, "kd_mm_version": kd_mm.__version__}
    save_atomically({"meta": meta, "state_dict": {k: v.detach().cpu().clone() for k, v in weights.items()}}, out)
    replace_file(out.with_suffix(".py"), config.encode())
    return out.with_suffix(".py")


def _plain(value: Any) -> Any:
    """Return a value in types that ``torch.load(weights_only=True)`` reads everywhere."""

    def convert(part: Any) -> Any:
        if isinstance(part, np.ndarray | np.generic):
            return part.tolist()
        return sorted(part) if isinstance(part, set | frozenset) else str(part)

    return json.loads(json.dumps(value, default=convert))
