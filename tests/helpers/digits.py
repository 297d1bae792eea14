"""Short distillations on the quickstart's digits, with teachers of random weights."""

import itertools
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner

import kd_mm  # noqa: F401 - registers everything
from kd_mm.apis.recipes import config_root

_RUNS = itertools.count()


def digits_run(
    folder: Path,
    recipe: str,
    teachers: dict[str, int] | None = None,
    options: dict[str, Any] | None = None,
    samples: int = 6,
    **changes: Any,
) -> Runner:
    """Build a run of one epoch that is not started.

    Args:
        folder: Its work dir.
        recipe: Name of a shipped recipe.
        teachers: Seed of the weights by name; default: one teacher, ``teacher``.
        options: Dotted keys in the recipe.
        samples: Training images of each of the ten classes.
        **changes: Dotted keys in the config.
    """
    torch.set_num_threads(1)
    config = Config.fromfile(config_root() / "quickstart" / "kd_teacher_student_digits.py")
    network = Config.fromfile(config_root() / "quickstart" / "teacher_digits.py")
    model = {**network.model, "data_preprocessor": network.data_preprocessor}
    config.model.teacher = {}
    for name, seed in (teachers or {"teacher": 0}).items():
        file = folder.parent / f"digits_teacher_{seed}.pth"
        if not file.is_file():
            torch.manual_seed(seed)
            torch.save({"state_dict": Runner.build_model(None, model).state_dict()}, file)
        config.model.teacher[name] = {"config": model, "checkpoint": str(file)}
    fragment = Config.fromfile(config_root() / "_base_" / "recipes" / f"{recipe}.py")
    config.model.recipe = fragment[recipe]
    config.default_hooks.update(fragment.kd_hooks)
    config.train_dataloader.dataset.samples_per_class = samples
    config.merge_from_dict(
        {
            "work_dir": str(folder),
            "experiment_name": f"digits_{next(_RUNS)}",
            "randomness": {"seed": 1},
            "train_cfg.max_epochs": 1,
            "train_dataloader.batch_size": 20,
            "val_dataloader.dataset.indices": 20,
            "default_hooks.teacher_check.min_score": 0.0,
            **{f"model.recipe.{key}": value for key, value in (options or {}).items()},
            **changes,
        }
    )
    return Runner.from_cfg(config)


def run_log(runner: Runner) -> str:
    """Return what a run has logged."""
    return next(Path(runner.log_dir).glob("*.log")).read_text()
