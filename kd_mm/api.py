"""The toolkit from Python: thin functions over :mod:`kd_mm.apis`, which are attributes of ``kd_mm``, too.

Example::

    import kd_mm

    runner = kd_mm.distill("student.py", "teacher.py", "teacher.pth", recipe="mtkd_ssr", work_dir="work_dirs/run")
    kd_mm.evaluate("student.py", "work_dirs/run/epoch_100.pth")
    kd_mm.export("student.py", "work_dirs/run/epoch_100.pth", "student.pth", onnx="student.onnx")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.runner import Runner

    from kd_mm.apis.export import Exported

__all__ = ["distill", "evaluate", "export", "train"]


def train(config: str, work_dir: str | None = None, options: Mapping[str, Any] | None = None) -> Runner:
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

    return _train(runner.read_config(config, dict(options or {}), work_dir))


def distill(
    student: str,
    teacher: str | Sequence[str] | None = None,
    teacher_checkpoint: str | Sequence[str] | None = None,
    recipe: str = "mtkd_ssr",
    work_dir: str | None = None,
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

    folder = work_dir or str(Path("work_dirs") / f"{recipe}_{Path(student.split('::')[-1]).stem}")
    plain = runner.read_config(student, work_dir=folder)
    return _train(recipes.compose(plain, recipe, teacher, teacher_checkpoint, options))


def _train(config: Config) -> Runner:
    from kd_mm.apis import export, runner

    trained = runner.train(config)
    export.export_trained(config)
    return trained


def evaluate(config: str, checkpoint: str, **options: Any) -> dict[str, float]:
    """Evaluate a checkpoint as the student alone; see :func:`kd_mm.apis.evaluate.evaluate` for the options."""
    from kd_mm.apis.evaluate import evaluate

    return evaluate(config, checkpoint, **options)


def export(config: str, checkpoint: str, out: str, **options: Any) -> Exported:
    """Write the student as a plain checkpoint and config; see :func:`kd_mm.apis.export.export_student`."""
    from kd_mm.apis.export import export_student

    return export_student(config, checkpoint, out, **options)
