"""Composing a distillation config from any upstream config and a recipe."""

from __future__ import annotations

import difflib
from pathlib import Path

from mmengine.config import Config

import kd_mm


def config_root() -> Path:
    """Return the folder of the shipped configs."""
    return Path(kd_mm.__file__).parent / ".mim" / "configs"


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in (config_root() / "_base_" / "distillers").glob("*.py") if path.stem != "hooks")


def read_recipe(name: str) -> Config:
    """Return the config fragment of a recipe: the recipe under its own name, its hooks and imports.

    Raises:
        ValueError: No such recipe; the message names the closest.
    """
    names = recipe_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        raise ValueError(
            f"unknown recipe {name!r}"
            + (f", did you mean {near[0]!r}?" if near else "")
            + f" (there are: {', '.join(names)})"
        )
    return Config.fromfile(config_root() / "_base_" / "distillers" / f"{name}.py")


def compose(config: Config, distiller: str, teacher: str | None, teacher_checkpoint: str | None) -> Config:
    """Turn a plain config into a distillation of its model; the given config is left as it is.

    Args:
        config: Any upstream config.
        distiller: Name of a shipped recipe.
        teacher: Config of the teacher: a path, or ``package::path``.
        teacher_checkpoint: Its weights.

    Raises:
        ValueError: Unknown recipe, no teacher, or a config that is a distillation already.
    """
    if str(config.model.type).endswith("Distiller"):
        raise ValueError(
            "--distiller composes a plain config, but this config is a distillation already; drop the option"
        )
    if not teacher or not teacher_checkpoint:
        missing = "--teacher CONFIG" if not teacher else "--teacher-checkpoint PATH"
        raise ValueError(f"--distiller {distiller} needs {missing}")
    fragment = read_recipe(distiller)
    composed = Config(config._cfg_dict.copy().to_dict())
    composed.model = {
        "type": "kd_mm.Distiller",
        "student": composed.model.to_dict(),
        "teacher": {"config": locate(teacher), "checkpoint": locate(teacher_checkpoint)},
        "recipe": fragment[distiller].to_dict(),
    }
    composed.merge_from_dict({"default_hooks": fragment.kd_hooks.to_dict()})
    return composed


def locate(path: str) -> str:
    """Return an absolute path, so that a config written elsewhere still finds the file; URLs and packages stay."""
    return path if "::" in path or "://" in path else str(Path(path).expanduser().absolute())
