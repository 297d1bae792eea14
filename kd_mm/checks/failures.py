"""What a run that failed says instead of the engine's error: one line that names the key, the file or the step."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from kd_mm.checks.annotation_files import explain_annotations, explain_steps, explain_voc_annotations
from kd_mm.checks.classes import explain_joined_sets
from kd_mm.checks.hooks import StepHook
from kd_mm.checks.metrics import named_metrics
from kd_mm.utils.config import data_sets, parts_of
from kd_mm.utils.samples import OneLineError, SampleError
from kd_mm.utils.suggest import join_first, nearest_file, place

#: Errors that a config can cause.
INPUT_ERRORS = (ValueError, TypeError, KeyError, OSError, ImportError, AssertionError, NotImplementedError)
#: Errors of upstream's constructors that do not check a value.
UNCHECKED = (AttributeError, IndexError, ZeroDivisionError)
#: What upstream says of annotations that it cannot read.
_UNREAD = re.compile(
    "annotation file format|need at least one array to concatenate|invalid literal for int|values to unpack"
)


def explain_failure(config: Config, runner: Runner | None, steps: StepHook, error: Exception) -> None:
    """Look for the reason of an error of the engine; return where there is nothing more to say than it does.

    Args:
        config: Complete.
        runner: That failed; None where it could not be built.
        steps: How far it came.
        error: Of the engine.

    Raises:
        ValueError: Naming what is wrong in the config or its data.
        SampleError: The images of a batch are.
        RuntimeError: A training step failed with an error that a config may cause before.
    """
    if steps.key:
        steps.explain(runner, error)
    for name, key in named_metrics(config).items():
        if re.search(rf"Cannot infer the rule for (key )?{re.escape(name)},", str(error)):
            raise ValueError(
                f"{key}: whether more of {name!r} is better is not known: give the complete name of a metric, such as "
                "accuracy/top1, coco/mAP or reid/mAP, and rule='greater' or rule='less' beside it"
            ) from error
    if runner and steps.under_way and isinstance(error, INPUT_ERRORS) and not isinstance(error, OneLineError):
        raise RuntimeError(f"iteration {runner.iter + 1}: the training step failed") from error
    if not steps.begun:
        _explain_start(config, runner is not None, steps, error)
    if dead := re.search(r"DataLoader worker \(.*?\) ((?:is killed|exited)[^.]*)", str(error)):
        raise SampleError(
            f"a worker of a data loader {dead[1]}: set a smaller num_workers or batch_size where memory (or "
            "/dev/shm) is short; num_workers=0 shows what a step of the pipeline does"
        ) from error
    if isinstance(error, FileNotFoundError) and error.filename:
        raise ValueError(_missing_file(str(error.filename), config)) from error


def _explain_start(config: Config, built: bool, steps: StepHook, error: Exception) -> None:
    """Look for the reason of an error before the first step; ``built`` is whether there was a Runner."""
    explained = isinstance(error, OneLineError)
    if built and not steps.loops_built and not explained and not isinstance(error, FileNotFoundError):
        explain_voc_annotations(config)
    unread = isinstance(error, KeyError | TypeError | UnicodeError | json.JSONDecodeError)
    if unread or _UNREAD.search(str(error)):
        explain_annotations(config)
    if built and not explained:
        explain_steps(config)
    if built and not steps.loops_built and isinstance(error, UNCHECKED):  # of the data
        raise ValueError(f"the config cannot be built: {type(error).__name__}: {error}{place(error)}") from error
    if late := re.search(r"end should be larger than begin, but got begin=(\d+), end=(\d+)", str(error)):
        raise ValueError(
            f"param_scheduler: one begins at {late[1]}, and the run or its schedule ends at {late[2]}: take it out, or "
            "lengthen train_cfg"
        ) from error
    if "meta information" in str(error):
        explain_joined_sets(config)
    if "number of subfolders" in str(error):
        _explain_folders(config)


def _explain_folders(config: Config) -> None:
    """Compare class lists with the class folders of a config's data sets, which upstream does without their names.

    Raises:
        ValueError: There are more of one than of the other.
    """
    for key, dataset in data_sets(config):
        for _, part in parts_of({"dataset": dataset}):
            if not isinstance(part, dict) or part.get("ann_file") or "data_prefix" not in part:
                continue
            classes = part.get("classes") or (part.get("metainfo") or {}).get("classes") or ()
            prefix = part["data_prefix"]
            prefix = prefix.get("img_path", "") if isinstance(prefix, dict) else prefix
            root = Path(part.get("data_root") or "", prefix)
            folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
            if classes and len(folders) != len(classes):
                raise ValueError(
                    f"{key}: the class list names {len(classes)} classes ({join_first(classes)}), {root} has "
                    f"{len(folders)} folders ({join_first(folders)}): name these, in this order"
                )


def _missing_file(path: str, config: Mapping[str, Any]) -> str:
    """Return one line on a file that does not exist, with the key of the config that its path begins with."""
    roots = {
        key: value for key, value in parts_of(dict(config.items())) if isinstance(value, str) and path.startswith(value)
    }
    key = max(roots, key=lambda key: len(roots[key]), default="")
    hint = f": put the data there, or set {key} (now {roots[key]!r})" if key and roots[key] else ""
    if path.endswith(".xml") and Path(path).parent.is_dir():
        hint += "; lists with columns or endings are read by kd_mm.VOCDataset alone"
    return f"{path} does not exist{nearest_file(Path(path))}{hint}"
