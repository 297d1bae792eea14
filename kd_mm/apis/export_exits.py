"""Export a student together with its exits as a plain multi-exit classifier."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope

import kd_mm
from kd_mm.apis.explain import explaining
from kd_mm.apis.export import check_target, chosen_weights, exported_config, plain_meta, saved
from kd_mm.apis.stages import config_input_size
from kd_mm.distillers import Distiller
from kd_mm.distillers.build import teacher_configs
from kd_mm.engine.atomic_files import replace_file
from kd_mm.hooks.report import complexity
from kd_mm.models import MultiExitClassifier
from kd_mm.registry import MODELS
from kd_mm.stages.stage import Stage
from kd_mm.utils.checkpoint import distill_state_dict, fill, read_checkpoint, student_state_dict
from kd_mm.utils.config import load_config


@dataclass(frozen=True)
class ExportedExits:
    """The files of an exported ensemble and what it costs.

    Attributes:
        checkpoint: The plain checkpoint.
        config: The plain config.
        tensors: Number of tensors in the checkpoint.
        input_size: Height and width in pixels at which multiply-adds are counted.
        student: Parameters and multiply-adds of the student alone.
        ensemble: Parameters and multiply-adds of the student with all exits.
    """

    checkpoint: Path
    config: Path
    tensors: int
    input_size: tuple[int, int]
    student: tuple[int, int]
    ensemble: tuple[int, int]


def export_exits(
    config: str,
    checkpoint: str,
    out: str | Path,
    options: dict[str, Any] | None = None,
    ema: bool | None = None,
    input_size: tuple[int, int] | None = None,
) -> ExportedExits:
    """Write the student of a distillation run and its exits as a :class:`kd_mm.models.MultiExitClassifier`.

    The config is written next to the checkpoint under the same name with the suffix ``.py``. The teachers' configs are
    needed, their checkpoints are not.

    Args:
        config: A distillation config: a path, or ``package::path``.
        checkpoint: Any checkpoint of a run of it.
        out: The checkpoint to write, ``.pth`` or ``.pt``.
        options: Overrides of config keys.
        ema: Which weights to take, see :func:`kd_mm.apis.export.export_student`.
        input_size: Height and width in pixels to count multiply-adds at; default: from the config, else 224.

    Raises:
        FileNotFoundError: No such config or checkpoint.
        ValueError: The config trains no exits, its student is no ``ImageClassifier``, or the checkpoint does not fit.
    """
    out = Path(out).expanduser()
    check_target(out)
    source = load_config(config)
    if options:
        source.merge_from_dict(options)
    plain = exported_config(source)
    distiller = _build_distiller(source, plain, config)
    exits: Any = distiller.distill["exits"]
    stored = read_checkpoint(checkpoint)
    state, kind = chosen_weights(stored, ema, checkpoint)
    fill(distiller.student, student_state_dict(state), "student", checkpoint)
    fill(exits, distill_state_dict(state, "exits."), "exits of the student", checkpoint)
    _set_model(plain, distiller)
    with explaining(plain), DefaultScope.overwrite_default_scope(plain.get("default_scope")):
        model: MultiExitClassifier = MODELS.build({**_preprocessor(plain), **plain.model})
    weights = dict(distiller.student.state_dict())
    for index, name in enumerate(sorted(exits, key=int)):
        weights.update({f"exits.{index}.{key}": value for key, value in exits[name].state_dict().items()})
    fill(model, weights, "multi-exit classifier", checkpoint)
    written = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    meta = {**plain_meta(stored), "source": Path(checkpoint).name, "weights": kind, "kd_mm_version": kd_mm.__version__}
    replace_file(out, saved({"meta": meta, "state_dict": written}))
    replace_file(out.with_suffix(".py"), plain.pretty_text.encode())
    size = input_size or config_input_size(plain) or (224, 224)
    costs = complexity(distiller.student, size), complexity(model, size)
    return ExportedExits(out, out.with_suffix(".py"), len(written), size, *costs)


def _build_distiller(source: Config, plain: Config, origin: str) -> Distiller:
    """Build the Distiller of a run without its teachers' weights.

    Raises:
        ValueError: It has no exits, or its student is no ``ImageClassifier``.
    """
    if not str(source.model.type).endswith("Distiller"):
        raise ValueError(f"--exits: {origin} is no distillation; give the config that the exits were trained with")
    kind = str(plain.model.type).rpartition(".")[2]
    if kind != "ImageClassifier":
        raise ValueError(
            f"--exits: the student is a {kind}; only the exits of mmpretrain's ImageClassifier form an ensemble: "
            "export without"
        )
    model = {**_preprocessor(source), **ConfigDict(source.model).to_dict()}
    teachers = teacher_configs(model.get("teacher"))
    for teacher in teachers.values():
        teacher.update(checkpoint=None, random_weights=True)
    # The teacher's exits are not exported, and some modes would read them from its checkpoint.
    recipe = {**(model.get("recipe") or {}), "teacher_exits": {"mode": "online"}}
    with explaining(source), DefaultScope.overwrite_default_scope(source.get("default_scope")):
        distiller: Distiller = MODELS.build({**model, "teacher": teachers, "recipe": recipe})
    if "exits" not in distiller.distill or not distiller.distill["exits"]:
        raise ValueError(
            f"--exits: the recipe of {origin} trains no exits of the student (mskd, mskd_final, byot and mtkd_ssr do); "
            "export without"
        )
    return distiller


def _preprocessor(config: Config) -> dict[str, Any]:
    own = config.get("data_preprocessor")
    return {"data_preprocessor": own} if own else {}


def _set_model(plain: Config, distiller: Distiller) -> None:
    """Replace the model of a plain config by the multi-exit classifier."""
    exits: Any = distiller.distill["exits"]
    configs = []
    for name in sorted(exits, key=int):
        deeper = distiller.stages[int(name) - 1 :]
        config = {**distiller.recipe.exits, "stage": _stage_config(deeper[0]), "num_classes": exits[name].num_classes}
        config["widths"] = [stage.channels for stage in deeper]
        if exits[name].needs_rest:
            config["rest"] = [stage.tap for stage in deeper[1:]]
        config.pop("_scope_", None)
        configs.append(config)
    options = {"exits": configs, "ensemble": "logit_mean", "weights": None, "depth": None}
    plain._cfg_dict["model"] = ConfigDict({**plain.model.to_dict(), "type": "kd_mm.MultiExitClassifier", **options})
    imports = list((plain.get("custom_imports") or {}).get("imports", []))
    plain.custom_imports = {"imports": list(dict.fromkeys([*imports, "kd_mm"])), "allow_failed_imports": False}


def _stage_config(stage: Stage) -> Any:
    if stage.layout == "map":
        return stage.tap
    config = {"tap": stage.tap, "layout": stage.layout, "height": stage.height, "width": stage.width}
    return {**config, "extra_tokens": stage.extra_tokens} if stage.extra_tokens else config
