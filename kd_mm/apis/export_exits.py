"""Exporting a student with its exits, as a plain multi-exit classifier."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmpretrain.models.classifiers import ImageClassifier
from torch import nn

import kd_mm
from kd_mm.apis.explain import explaining
from kd_mm.apis.export import check_target, chosen_weights, exported_config, plain_meta, saved
from kd_mm.apis.stages import config_input_size
from kd_mm.distillers import Distiller
from kd_mm.distillers.build import teacher_configs
from kd_mm.engine.atomic_files import replace_file
from kd_mm.hooks.report import complexity, stopped_complexity
from kd_mm.models import MultiExitClassifier
from kd_mm.models.exits import Exit
from kd_mm.registry import MODELS
from kd_mm.stages.stage import Stage
from kd_mm.utils.checkpoint import distill_state_dict, fill, read_checkpoint, student_state_dict
from kd_mm.utils.config import load_config

METRIC = "kd_mm.ExitMetric"


@dataclass(frozen=True)
class ExportedExits:
    """What an export of exits wrote, and what the networks cost.

    Attributes:
        checkpoint: The plain checkpoint.
        config: The plain config.
        tensors: Number of tensors in the checkpoint.
        input_size: Height and width in pixels that costs are counted at.
        student: Parameters and multiply-adds of the plain student.
        whole: Of the ensemble of all exits.
        leaving: Multiply-adds of an image that leaves at each exit, the head last.
    """

    checkpoint: Path
    config: Path
    tensors: int
    input_size: tuple[int, int]
    student: tuple[int, int]
    whole: tuple[int, int]
    leaving: tuple[int, ...]


def export_exits(
    config: str,
    checkpoint: str,
    out: str | Path,
    options: dict[str, Any] | None = None,
    ema: bool | None = None,
    input_size: tuple[int, int] | None = None,
) -> ExportedExits:
    """Write the student of a distillation run and the exits that it was trained with as a plain classifier.

    The network is a :class:`kd_mm.models.MultiExitClassifier`. Its config stands beside the checkpoint under the same
    name, ending ``.py``, and evaluates it with the metrics of the run's config and :class:`kd_mm.ExitMetric`. Teachers'
    checkpoints are not needed, their configs are.

    Args:
        config: A distillation config: a path, or ``package::path``.
        checkpoint: Any checkpoint of a run of it.
        out: The checkpoint to write, ``.pth`` or ``.pt``.
        options: Overrides of config keys.
        ema: Which weights are taken, see :func:`kd_mm.apis.export.export_student`.
        input_size: Height and width in pixels that costs are counted at; default: from the config, else 224.

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
    with explaining(source), DefaultScope.overwrite_default_scope(source.get("default_scope")):
        distiller = _built(source, config)
    stored = read_checkpoint(checkpoint)
    state, kind = chosen_weights(stored, ema, checkpoint)
    exits = _module(distiller, "exits")
    fill(distiller.student, student_state_dict(state), "student", checkpoint)
    fill(exits, distill_state_dict(state, "exits."), "exits of the student", checkpoint)
    _add_exits(plain, distiller)
    with explaining(plain), DefaultScope.overwrite_default_scope(plain.get("default_scope")):
        model: MultiExitClassifier = MODELS.build({**_preprocessor(plain), **plain.model})
    weights = dict(distiller.student.state_dict())
    for index, name in enumerate(sorted(exits, key=int)):
        weights.update({f"exits.{index}.{key}": value for key, value in exits[name].state_dict().items()})
    fill(model, weights, "multi-exit classifier", checkpoint)
    size = input_size or config_input_size(plain) or (224, 224)
    leaving = tuple(stopped_complexity(model, size, depth) for depth in range(1, model.num_exits + 1))
    _add_metric(plain, leaving)
    written = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    meta = {**plain_meta(stored), "source": Path(checkpoint).name, "weights": kind, "kd_mm_version": kd_mm.__version__}
    replace_file(out, saved({"meta": meta, "state_dict": written}))
    beside = out.with_suffix(".py")
    replace_file(beside, plain.pretty_text.encode())
    costs = complexity(distiller.student, size), complexity(model, size)
    return ExportedExits(out, beside, len(written), size, *costs, leaving)


def _built(source: Config, origin: str) -> Distiller:
    """Build the Distiller of a run without its teachers' weights; it says where the exits are.

    Raises:
        ValueError: It has no exits, or none that an ensemble of classifiers can be made of.
    """
    if not str(source.model.type).endswith("Distiller"):
        raise ValueError(f"--exits: {origin} is no distillation; give the config that the exits were trained with")
    model = {**_preprocessor(source), **ConfigDict(source.model).to_dict()}
    teachers = teacher_configs(model.get("teacher"))
    for teacher in teachers.values():
        teacher.update(checkpoint=None, random_weights=True)
    # The teacher's exits are of no use here, and some modes would read them from its checkpoint.
    recipe = {**(model.get("recipe") or {}), "teacher_exits": {"mode": "online"}}
    distiller: Distiller = MODELS.build({**model, "teacher": teachers, "recipe": recipe})
    if type(distiller.student) is not ImageClassifier:
        raise ValueError(
            f"--exits: the student is a {type(distiller.student).__name__}; exits are made one with mmpretrain's "
            "ImageClassifier alone (an ensemble means nothing for boxes, and embeddings are no answers): export without"
        )
    if not len(_module(distiller, "exits")):
        raise ValueError(
            f"--exits: the recipe of {origin} trains no exits of the student (mskd, mskd_final, byot and mtkd_ssr do); "
            "export without"
        )
    return distiller


def _module(distiller: Distiller, name: str) -> nn.ModuleDict:
    found: Any = distiller.distill[name] if name in distiller.distill else nn.ModuleDict()
    return found


def _preprocessor(config: Config) -> dict[str, Any]:
    own = config.get("data_preprocessor")
    return {"data_preprocessor": own} if own else {}


def _add_exits(plain: Config, distiller: Distiller) -> None:
    """Turn a plain config into that of the multi-exit classifier."""
    exits, kind = _module(distiller, "exits"), distiller.recipe.exits
    configs = []
    for name in sorted(exits, key=int):
        deeper = distiller.stages[int(name) - 1 :]
        own: Exit | Any = exits[name]
        config = {**kind, "stage": _place(deeper[0]), "num_classes": own.num_classes}
        config["widths"] = [stage.channels for stage in deeper]
        if own.needs_rest:
            config["rest"] = [stage.tap for stage in deeper[1:]]
        configs.append({key: value for key, value in config.items() if key != "_scope_"})
    model = plain.model.to_dict()
    model.update(
        type="kd_mm.MultiExitClassifier", exits=configs, ensemble="logit_mean", weights=None, threshold=None, depth=None
    )
    plain._cfg_dict["model"] = ConfigDict(model)
    imports = list((plain.get("custom_imports") or {}).get("imports", []))
    plain.custom_imports = {"imports": list(dict.fromkeys([*imports, "kd_mm"])), "allow_failed_imports": False}


def _place(stage: Stage) -> Any:
    if stage.layout == "map":
        return stage.tap
    place = {"tap": stage.tap, "layout": stage.layout, "height": stage.height, "width": stage.width}
    return {**place, "extra_tokens": stage.extra_tokens} if stage.extra_tokens else place


def _add_metric(plain: Config, leaving: tuple[int, ...]) -> None:
    for key in ("val_evaluator", "test_evaluator"):
        given = plain.get(key)
        if given:
            metrics = list(given) if isinstance(given, list | tuple) else [given]
            plain[key] = [*metrics, {"type": METRIC, "multiply_adds": list(leaving)}]
