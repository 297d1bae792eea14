"""Exporting the student of a run with the exits that it was trained with, as a classifier of its own."""

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from kd_mm.apis.export import Exported, check_target, exported_config, write_export
from kd_mm.apis.runner import read_config
from kd_mm.apis.stages import config_input_size, random_teacher_configs
from kd_mm.checks.config import check_config
from kd_mm.distillers import Distiller
from kd_mm.hooks.report import complexity
from kd_mm.registry import MODELS
from kd_mm.utils.checkpoint import distill_state_dict, fill, read_checkpoint, student_state_dict
from kd_mm.utils.config import build_network, is_distillation


def export_exits(
    config: str,
    checkpoint: str,
    out: str | Path,
    options: dict[str, Any] | None = None,
    input_size: tuple[int, int] | None = None,
) -> Exported:
    """Write the student of a distillation run and its exits as a :class:`kd_mm.models.MultiExitClassifier`.

    The config is written next to the checkpoint under the same name with the suffix ``.py``. The teachers' configs are
    needed, their checkpoints are not.

    Args:
        config: A distillation config: a path, or ``package::path``.
        checkpoint: Any checkpoint of a run of it.
        out: The checkpoint to write, ``.pth`` or ``.pt``.
        options: Overrides of config keys.
        input_size: Height and width in pixels to count multiply-adds at; default: from the config, else 224.

    Raises:
        FileNotFoundError: No such config or checkpoint.
        ValueError: The config trains no exits, its student is no ``ImageClassifier``, or the checkpoint does not fit.
    """
    out = check_target(out)
    source = read_config(config, options)
    plain = exported_config(source)
    distiller = _build_distiller(source, plain, config)
    exits: Any = distiller.objective.exits
    stored = read_checkpoint(checkpoint)
    fill(distiller.student, student_state_dict(stored), "student", checkpoint)
    fill(exits, distill_state_dict(stored, "exits."), "exits of the student", checkpoint)
    _set_multi_exit_model(plain, distiller)
    model = build_network(plain)
    weights = dict(distiller.student.state_dict())
    for index, name in enumerate(sorted(exits, key=int)):
        weights.update({f"exits.{index}.{key}": value for key, value in exits[name].state_dict().items()})
    fill(model, weights, "multi-exit classifier", checkpoint)
    beside = write_export(out, plain.pretty_text, model.state_dict(), stored, checkpoint, "stored")
    size = input_size or config_input_size(plain) or (224, 224)
    costs = {"student alone": complexity(distiller.student, size), "all exits": complexity(model, size)}
    return Exported(out, beside, len(model.state_dict()), "stored", costs=costs, input_size=size)


def _build_distiller(source: Config, plain: Config, origin: str) -> Distiller:
    if not is_distillation(source):
        raise ValueError(f"--exits: {origin} is no distillation; give the config that the exits were trained with")
    kind = str(plain.model.type).rpartition(".")[2]
    if kind != "ImageClassifier":
        raise ValueError(
            f"--exits: the student is a {kind}; only the exits of mmpretrain's ImageClassifier form an ensemble: "
            "export without"
        )
    model = source.model.to_dict()
    if source.get("data_preprocessor"):
        model.setdefault("data_preprocessor", source.data_preprocessor)
    teachers = random_teacher_configs(model)
    # The teacher's exits are not exported, and some modes would read them from its checkpoint.
    recipe = {**(model.get("recipe") or {}), "teacher_exits": {"mode": "online"}}
    check_config(source, ["model"])
    with DefaultScope.overwrite_default_scope(source.get("default_scope")):
        distiller: Distiller = MODELS.build({**model, "teacher": teachers, "recipe": recipe})
    if not len(distiller.objective.exits):
        raise ValueError(
            f"--exits: the recipe of {origin} trains no exits of the student (mskd, mskd_final, byot, exits and "
            "mtkd_ssr do); export without"
        )
    return distiller


def _set_multi_exit_model(plain: Config, distiller: Distiller) -> None:
    exits: Any = distiller.objective.exits
    configs = []
    for name in sorted(exits, key=int):
        first, *others = deeper = distiller.exit_stages[int(name) - 1 :]
        config = {key: value for key, value in distiller.recipe.exits.items() if key != "_scope_"}
        stage: Any = first.tap
        if first.layout != "map":
            stage = {key: vars(first)[key] for key in ("tap", "layout", "height", "width")}
            stage |= {"extra_tokens": first.extra_tokens} if first.extra_tokens else {}
        config |= {"stage": stage, "num_classes": exits[name].num_classes}
        config |= {"widths": [stage.channels for stage in deeper], "strides": [stage.stride for stage in deeper]}
        if exits[name].needs_rest:
            config["rest"] = [stage.tap for stage in others]
        configs.append(config)
    options = {"exits": configs, "ensemble": "logit_mean", "weights": None, "depth": None}
    plain.model = {**plain.model.to_dict(), "type": "kd_mm.MultiExitClassifier", **options}
    imports = list((plain.get("custom_imports") or {}).get("imports", []))
    plain.custom_imports = {"imports": list(dict.fromkeys([*imports, "kd_mm"])), "allow_failed_imports": False}
