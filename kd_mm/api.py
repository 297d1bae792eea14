"""The toolkit from Python: thin functions over :mod:`kd_mm.apis`, which are attributes of ``kd_mm``, too.

Example::

    import kd_mm

    runner = kd_mm.distill("student.py", "teacher.py", "teacher.pth", recipe="mtkd_ssr", work_dir="work_dirs/run")
    kd_mm.evaluate("student.py", "work_dirs/run/epoch_100.pth")
    kd_mm.export("student.py", "work_dirs/run/epoch_100.pth", "student.pth", onnx="student.onnx")
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.runner import Runner

    from kd_mm.apis.export import Exported

__all__ = ["distill", "evaluate", "export", "train"]


PathLike = str | os.PathLike[str]


def train(config: PathLike, work_dir: PathLike | None = None, options: Mapping[str, Any] | None = None) -> Runner:
    """Train a config, plain or a distillation.

    Args:
        config: Its path, or ``package::path``.
        work_dir: Folder for logs and checkpoints; default ``work_dirs/<name of the config>``.
        options: Dotted keys and values that override the config's.

    Returns:
        The Runner, trained.

    Raises:
        ValueError: The config is wrong; the message is one line.
    """
    from kd_mm.apis import runner

    return _train(runner.read_config(_path(config), _options(options), _folder(work_dir)))


def distill(
    student: PathLike,
    teacher: PathLike | Sequence[PathLike] | None = None,
    teacher_checkpoint: PathLike | Sequence[PathLike] | None = None,
    recipe: str = "mtkd_ssr",
    work_dir: PathLike | None = None,
    options: Mapping[str, Any] | None = None,
) -> Runner:
    """Distil a teacher into the model of a plain config.

    Args:
        student: The plain config: its path, or ``package::path``.
        teacher: The teacher's config, or those of several.
        teacher_checkpoint: The teacher's weights, or those of several.
        recipe: Name of a shipped recipe, or several joined by ``+``.
        work_dir: Folder for logs and checkpoints; default ``work_dirs/<recipe>_<name of the config>``.
        options: Dotted keys and values that override the composed config's.

    Returns:
        The Runner, trained. Its checkpoints are those of the plain config; ``student.pth`` and ``student.py`` beside
        them are the student alone.

    Raises:
        ValueError: A config is wrong, or they do not fit together; the message is one line.
    """
    from kd_mm.apis import recipes, runner

    if not isinstance(recipe, str):
        raise ValueError(f"recipe={recipe!r}: give one name, or several joined by +, such as 'kd+at'")
    folder = _folder(work_dir) or f"work_dirs/{recipe}_{Path(_path(student).split('::')[-1]).stem}"
    plain = runner.read_config(_path(student), work_dir=folder)
    return _train(recipes.compose(plain, recipe, _paths(teacher), _paths(teacher_checkpoint), _options(options)))


def _path(given: Any) -> str:
    if not isinstance(given, str | os.PathLike):
        raise ValueError(f"give the path of a config or checkpoint, not a {type(given).__name__}")
    return os.fspath(given)


def _folder(given: PathLike | None) -> str | None:
    return None if given is None else os.fspath(given)


def _paths(given: Any) -> str | list[str] | None:
    if given is None:
        return None
    return [_path(one) for one in given] if isinstance(given, list | tuple) else _path(given)


def _options(given: Any) -> dict[str, Any]:
    if not isinstance(given or {}, Mapping):
        raise ValueError(
            f"options={given!r}: give a dict of dotted keys and values, such as {{'train_cfg.max_epochs': 2}}"
        )
    return dict(given or {})


def _train(config: Config) -> Runner:
    from kd_mm.apis import export, runner

    trained = runner.train(config)
    export.export_trained(config)
    return trained


def evaluate(config: PathLike, checkpoint: PathLike, **options: Any) -> dict[str, float]:
    """Evaluate a checkpoint as the student alone; see :func:`kd_mm.apis.evaluate.evaluate` for the options."""
    from kd_mm.apis.evaluate import evaluate

    return evaluate(_path(config), _path(checkpoint), **options)


def export(config: PathLike, checkpoint: PathLike, out: PathLike, **options: Any) -> Exported:
    """Write the student as a plain checkpoint and config; see :func:`kd_mm.apis.export.export_student`."""
    from kd_mm.apis.export import export_student

    return export_student(_path(config), _path(checkpoint), _path(out), **options)
