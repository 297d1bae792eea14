"""Shipped recipes: finding them, joining several, composing a distillation config from any upstream config."""

import copy
import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

import kd_mm
from kd_mm.apis.overrides import override
from kd_mm.checks.config import check_config
from kd_mm.checks.unread import stale_variables
from kd_mm.distillers import Distiller
from kd_mm.registry import MODELS
from kd_mm.utils.config import is_distillation
from kd_mm.utils.suggest import known_options, nearest

#: Tasks with recipes of their own, and how messages call their models.
TASK_MODELS = {"detection": "detectors", "reid": "re-identification"}


def config_root() -> Path:
    """Return the folder of the shipped configs."""
    return Path(kd_mm.__file__).parent / ".mim" / "configs"


def recipe_folder() -> Path:
    """Return the folder of the shipped recipes; tasks with recipes of their own have a folder in it."""
    return config_root() / "_base_" / "recipes"


def recipe_names(*tasks: str) -> list[str]:
    """Return the names of the shipped recipes, those of some tasks (:data:`TASK_MODELS`) included."""
    folders = [recipe_folder(), *(recipe_folder() / task for task in tasks if task in TASK_MODELS)]
    return sorted({path.stem for folder in folders for path in folder.glob("*.py") if path.stem != "hooks"})


def read_recipe(name: str, task: str = "classification") -> Config:
    """Return the config fragment of a recipe: the recipe under its own name, its hooks and imports.

    Args:
        name: Name of the recipe.
        task: ``"classification"``, ``"detection"`` or ``"reid"``; the task's own version is read where there is one.

    Raises:
        ValueError: No such recipe; the message names the closest.
    """
    names = recipe_names(task)
    if name not in names:
        owners = [models for other, models in TASK_MODELS.items() if name in recipe_names(other)]
        if owners:
            raise ValueError(
                f"recipe {name!r} is for {' and '.join(owners)} alone; for this model take one of: {', '.join(names)}"
            )
        hint = (
            "; a recipe of your own is inherited by a config (README)" if name.endswith(".py") else nearest(name, names)
        )
        raise ValueError(f"unknown recipe {name!r}{hint}")
    own = recipe_folder() / task / f"{name}.py"
    return Config.fromfile(own if own.is_file() else recipe_folder() / f"{name}.py")


def read_recipes(
    names: str, task: str = "classification", overridden: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a recipe and its hooks; names joined by ``+`` make one recipe, see :func:`join_recipes`.

    Args:
        names: ``"mtkd_ssr"``, ``"mtkd_ssr+student_friendly"``.
        task: See :func:`read_recipe`.
        overridden: Dotted keys of the recipe that are set afterwards, so that recipes may disagree there.

    Raises:
        ValueError: No such recipe, one twice, or recipes that cannot be joined.
    """
    listed = [name.strip() for name in names.split("+")]
    for name in listed:
        if not name or listed.count(name) > 1:
            raise ValueError(f"--distiller {names}: name each recipe once, e.g. mtkd_ssr+student_friendly")
    fragments = {name: read_recipe(name, task) for name in listed}
    recipes = {name: fragment[name].to_dict() for name, fragment in fragments.items()}
    hooks = {name: fragment.kd_hooks.to_dict() for name, fragment in fragments.items()}
    if len(listed) == 1:
        return recipes[listed[0]], hooks[listed[0]]
    return join_recipes(recipes, overridden), _join(hooks)


def task_of(config: Config) -> str:
    """Return the task of a plain config's model: ``"classification"``, ``"detection"`` or ``"reid"``."""
    scope = str(config.model.type).rpartition(".")[0].partition(".")[0]
    if (scope or config.get("default_scope")) == "mmdet":
        return "detection"
    head = str((config.model.get("head") or {}).get("type", ""))
    return "reid" if head.rpartition(".")[2] == "BNNeckHead" else "classification"


def compose(
    config: Config,
    distiller: str,
    teacher: str | Sequence[str] | None,
    teacher_checkpoint: str | Sequence[str] | None,
    options: Mapping[str, Any] | None = None,
) -> Config:
    """Turn a plain config into a distillation of its model, and check it; the given config is left as it is.

    The file name of the result is that of the given config after the recipe's name.

    Args:
        config: Any upstream config.
        distiller: Name of a shipped recipe, or several joined by ``+``.
        teacher: Config of the teacher: a path, or ``package::path``; or those of several, called teacher1, teacher2...
        teacher_checkpoint: Its checkpoint, or several.
        options: Dotted keys and values to set in the composed config; joined recipes may disagree about what they set
            in ``model.recipe``.

    Raises:
        ValueError: No model, unknown recipe, recipes that cannot be joined, no teacher, a config that is a distillation
            already, or an override that does not fit, such as one that is meant for the plain config.
    """
    if "type" not in (config.get("model") or {}):
        what = "no type of the model, is its _base_ missing?" if config.get("model") else "no model"
        raise ValueError(f"{config.filename or 'the config'}: there is {what}")
    if is_distillation(config):
        raise ValueError(
            f"{config.filename or 'the config'} is a distillation already, and --distiller is for plain configs: "
            "leave it out; distillations of your own are compared as rows of a sweep file (kd-mm compare SWEEP)"
        )
    overridden = [key.removeprefix("model.recipe.") for key in options or {} if key.startswith("model.recipe.")]
    recipe, hooks = read_recipes(distiller, task_of(config), overridden)
    for line in stale_variables(config):
        print(line, flush=True)
    # The engine writes a config to the work dir under its file name.
    name = f"{distiller}_{Path(config.filename).name}" if config.filename else None
    composed = Config(config.to_dict(), cfg_text=f"# {config.filename}, {distiller}", filename=name)
    composed.model = {
        "type": "kd_mm.Distiller",
        "student": composed.model.to_dict(),
        "teacher": _teachers(distiller, teacher, teacher_checkpoint) if teacher or needs_teacher(recipe) else None,
        "recipe": recipe,
    }
    own = config.get("default_hooks") or {}
    hooks = {name: hook for name, hook in hooks.items() if own.get(name, hook) is not None}
    composed.merge_from_dict({"default_hooks": hooks})
    _check_overrides(config, options or {})
    override(composed, dict(options or {}))
    check_config(composed, ["model"])
    return composed


def needs_teacher(recipe: Mapping[str, Any]) -> bool:
    """Return whether a recipe reads a teacher, whatever its losses weigh; some bring their own."""
    own_teachers, losses = recipe.get("teachers") or {}, filter(None, (recipe.get("losses") or {}).values())
    return any(MODELS.build(dict(loss)).needs_teacher for loss in losses if loss.get("teacher") not in own_teachers)


def _teachers(distiller: str, teacher: Any, checkpoint: Any) -> dict[str, Any] | list[dict[str, Any]]:
    if not teacher or not checkpoint:
        missing = "--teacher CONFIG" if not teacher else "--teacher-checkpoint PATH"
        raise ValueError(f"--distiller {distiller} needs {missing}")
    configs, files = ([given] if isinstance(given, str) else list(given) for given in (teacher, checkpoint))
    if len(configs) != len(files):
        raise ValueError(f"--teacher names {len(configs)} configs, --teacher-checkpoint {len(files)}; give as many")
    teachers = [
        {"config": absolute_path(path), "checkpoint": absolute_path(file)}
        for path, file in zip(configs, files, strict=True)
    ]
    return teachers[0] if len(teachers) == 1 else teachers


def _check_overrides(config: Config, options: Mapping[str, Any]) -> None:
    """Refuse overrides that are meant for the plain config, whose model is under ``model.student`` once composed.

    ``model.type`` may name another Distiller.
    """
    own = known_options(Distiller) or []
    for key, value in options.items():
        first, _, rest = key.partition(".")
        option = rest.partition(".")[0]
        if first != "model" or not option or (key == "model.type" and str(value).endswith("Distiller")):
            continue
        if option in config.model or not (option in own or difflib.get_close_matches(option, own, n=1)):
            raise ValueError(
                f"override {key}: with --distiller the student is under model.student; write model.student.{rest}"
            )


def absolute_path(path: str) -> str:
    """Return an absolute path, so that a config written elsewhere still finds the file; URLs and packages stay."""
    return path if "::" in path or "://" in path else str(Path(path).expanduser().absolute())


def join_recipes(recipes: Mapping[str, Mapping[str, Any]], overridden: Collection[str] = ()) -> dict[str, Any]:
    """Return one recipe that has the losses and options of several.

    A recipe whose ``joined`` names keys contributes these alone (``student_friendly``: its transform). Exits,
    connectors and the teacher's exits are shared, so recipes that name them have to agree; a loss that two recipes have
    alike is there once.

    Args:
        recipes: By name.
        overridden: Dotted keys of the joined recipe that are set afterwards, so that recipes may disagree there and
            in what lies inside.

    Raises:
        ValueError: Two recipes disagree in an option or have different losses of one name.
    """
    chosen = {}
    for name, recipe in recipes.items():
        # A recipe that leaves the student's own weight out means 1.
        chosen[name] = {"student_loss_weight": 1.0, **recipe}
        if "joined" in recipe:
            chosen[name] = {key: recipe[key] for key in recipe["joined"]}
    return _join(chosen, overridden)


def _join(parts: Mapping[str, Mapping[str, Any]], overridden: Collection[str] = ()) -> dict[str, Any]:
    """Return one mapping with the keys of several, given by the recipe's name; see :func:`join_recipes`."""
    joined: dict[str, Any] = {}
    owners: dict[str, str] = {}

    def merge(into: dict[str, Any], given: Mapping[str, Any], recipe: str, prefix: str = "") -> None:
        # The type first, since other options follow from it; a loss is merged as one.
        for key in sorted(given, key=lambda key: key != "type"):
            path, value, new = f"{prefix}{key}", given[key], key not in into
            owners.setdefault(path, recipe)
            if isinstance(value, Mapping) and prefix != "losses." and (new or isinstance(into[key], dict)):
                merge(into.setdefault(key, {}), value, recipe, f"{path}.")
            elif new:
                into[key] = copy.deepcopy(value)
            elif into[key] != value and not any(f"{path}.".startswith(f"{done}.") for done in overridden):
                raise ValueError(_disagreement(path, into[key], value, owners[path], recipe))

    for name, given in parts.items():
        merge(joined, given, name)
    return joined


def _disagreement(path: str, first: Any, second: Any, first_recipe: str, second_recipe: str) -> str:
    start = f"the recipes {first_recipe} and {second_recipe} cannot be joined: "
    if path.startswith("losses.") and path.count(".") == 1:
        differ = min(key for key in {*first, *second} if first.get(key) != second.get(key))
        return (
            f"{start}both have a loss {path.partition('.')[2]!r}, with another {differ} "
            f"({first.get(differ)!r} and {second.get(differ)!r}); write a recipe of your own with two names"
        )
    return (
        f"{start}{path} is {first!r} in one and {second!r} in the other; choose with "
        f"--cfg-options model.recipe.{path}=VALUE"
    )
