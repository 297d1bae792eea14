"""Composing a distillation config from any upstream config and a recipe."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

import kd_mm
from kd_mm.apis.join_recipes import join_hooks, join_recipes
from kd_mm.distillers import Distiller
from kd_mm.registry import MODELS
from kd_mm.utils.suggest import accepted_options, nearest


def config_root() -> Path:
    """Return the folder of the shipped configs."""
    return Path(kd_mm.__file__).parent / ".mim" / "configs"


#: Folders of the recipes that one kind of model has for itself, and how messages call these models.
KINDS = {"detection": "detectors", "reid": "re-identification"}


def recipe_names(*kinds: str) -> list[str]:
    """Return the names of the shipped recipes; those of some :data:`KINDS` come from folders of their own, too."""
    common = config_root() / "_base_" / "recipes"
    folders = [common, *(common / kind for kind in kinds)]
    return sorted({path.stem for folder in folders for path in folder.glob("*.py") if path.stem != "hooks"})


def read_recipe(name: str, kind: str | None = None) -> Config:
    """Return the config fragment of a recipe: the recipe under its own name, its hooks and imports.

    Args:
        name: Name of the recipe.
        kind: One of :data:`KINDS`: take the recipe for these models where there is one.

    Raises:
        ValueError: No such recipe; the message names the closest.
    """
    names = recipe_names(kind) if kind else recipe_names()
    if name not in names:
        owners = [said for other, said in KINDS.items() if name in recipe_names(other)]
        if owners:
            whom, there = " and ".join(owners), ", ".join(names)
            raise ValueError(f"recipe {name!r} is for {whom} alone; for this model take one of: {there}")
        raise ValueError(f"unknown recipe {name!r}{nearest(name, names)}")
    folder = config_root() / "_base_" / "recipes"
    own = folder / kind / f"{name}.py" if kind else None
    return Config.fromfile(own if own and own.is_file() else folder / f"{name}.py")


def kind_of(config: Config) -> str | None:
    """Return which of :data:`KINDS` the model of a plain config is; None for a classifier."""
    if is_detector(config):
        return "detection"
    head = str((config.model.get("head") or {}).get("type", ""))
    return "reid" if head.rpartition(".")[2] == "BNNeckHead" else None


def is_detector(config: Config) -> bool:
    """Return whether a plain config's model is one of mmdet's."""
    scope = str(config.model.type).rpartition(".")[0].partition(".")[0]
    return (scope or config.get("default_scope")) == "mmdet"


def read_recipes(names: str, kind: str | None = None, settled: Collection[str] = ()) -> tuple[dict[str, Any], Any]:
    """Return a recipe and its hooks; names joined by ``+`` make one recipe (:mod:`kd_mm.apis.join_recipes`).

    Args:
        names: ``"mtkd_ssr"``, ``"mtkd_ssr+student_friendly"``.
        kind: See :func:`read_recipe`.
        settled: Dotted keys of the recipe that are overridden, so that recipes may disagree there.

    Raises:
        ValueError: No such recipe, one twice, or recipes that cannot be joined.
    """
    listed = [name.strip() for name in names.split("+")]
    for name in listed:
        if not name or listed.count(name) > 1:
            raise ValueError(f"--distiller {names}: name each recipe once, e.g. mtkd_ssr+student_friendly")
    fragments = {name: read_recipe(name, kind) for name in listed}
    recipes = {name: fragment[name].to_dict() for name, fragment in fragments.items()}
    hooks = {name: fragment.kd_hooks.to_dict() for name, fragment in fragments.items()}
    if len(listed) == 1:
        return recipes[names.strip()], hooks[names.strip()]
    return join_recipes(recipes, settled), join_hooks(hooks)


def compose(
    config: Config,
    distiller: str,
    teacher: str | Sequence[str] | None,
    teacher_checkpoint: str | Sequence[str] | None,
    options: Mapping[str, Any] | None = None,
) -> Config:
    """Turn a plain config into a distillation of its model; the given config is left as it is.

    Its file name is that of the given one after the recipe's name.

    Args:
        config: Any upstream config.
        distiller: Name of a shipped recipe, or several joined by ``+``.
        teacher: Config of the teacher: a path, or ``package::path``; or those of several, called teacher1, teacher2...
        teacher_checkpoint: Its weights, or theirs.
        options: Overrides of the composed config that follow; what they set in ``model.recipe``, joined recipes may
            disagree about.

    Raises:
        ValueError: Unknown recipe, recipes that cannot be joined, no teacher, or a config that is a distillation
            already.
    """
    if str(config.model.type).endswith("Distiller"):
        raise ValueError(
            "--distiller composes a plain config, but this config is a distillation already; drop the option"
        )
    settled = [key.removeprefix("model.recipe.") for key in options or {} if key.startswith("model.recipe.")]
    recipe, hooks = read_recipes(distiller, kind_of(config), settled)
    # The engine writes a config to the work dir under its file name.
    name = f"{distiller}_{Path(config.filename).name}" if config.filename else None
    composed = Config(config._cfg_dict.copy().to_dict(), cfg_text=f"# {config.filename}, {distiller}", filename=name)
    composed.model = {
        "type": "kd_mm.Distiller",
        "student": composed.model.to_dict(),
        "teacher": _teachers(distiller, teacher, teacher_checkpoint) if teacher or is_taught(recipe) else None,
        "recipe": recipe,
    }
    composed.merge_from_dict({"default_hooks": hooks})
    return composed


def is_taught(recipe: Mapping[str, Any]) -> bool:
    """Return whether a recipe reads a teacher; self-distillation does not, and some bring their own."""
    brought = recipe.get("teachers") or {}
    active = [loss for loss in recipe["losses"].values() if loss and loss.get("loss_weight", 1.0) != 0]
    kinds = [loss["type"] for loss in active if loss.get("teacher") not in brought]
    reads: set[str] = set().union(*(getattr(MODELS.get(kind), "requires", ()) for kind in kinds))
    return "student.adapted" in reads or any(item.startswith("teacher.") for item in reads)


def _teachers(distiller: str, teacher: Any, checkpoint: Any) -> dict[str, Any] | list[dict[str, Any]]:
    if not teacher or not checkpoint:
        missing = "--teacher CONFIG" if not teacher else "--teacher-checkpoint PATH"
        raise ValueError(f"--distiller {distiller} needs {missing}")
    configs, files = ([given] if isinstance(given, str) else list(given) for given in (teacher, checkpoint))
    if len(configs) != len(files):
        raise ValueError(f"--teacher names {len(configs)} configs, --teacher-checkpoint {len(files)}; give as many")
    found = [{"config": locate(one), "checkpoint": locate(file)} for one, file in zip(configs, files, strict=True)]
    return found[0] if len(found) == 1 else found


def check_overrides(config: Config, options: Mapping[str, Any] | None) -> None:
    """Refuse overrides that are meant for the plain config, whose model is under ``model.student`` once composed.

    Args:
        config: The plain config.
        options: Dotted keys and values, to be set in the composed config; ``model.type`` may name another Distiller.

    Raises:
        ValueError: Naming the key to write instead.
    """
    own = accepted_options(Distiller)
    for key in options or {}:
        first, _, rest = key.partition(".")
        option = rest.partition(".")[0]
        if first != "model" or not option:
            continue
        if key == "model.type" and str((options or {})[key]).endswith("Distiller"):
            continue
        if option in config.model or not (option in own or difflib.get_close_matches(option, own, n=1)):
            raise ValueError(
                f"override {key}: with --distiller the student is under model.student; write model.student.{rest}"
            )


def locate(path: str) -> str:
    """Return an absolute path, so that a config written elsewhere still finds the file; URLs and packages stay."""
    return path if "::" in path or "://" in path else str(Path(path).expanduser().absolute())
