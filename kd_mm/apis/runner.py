"""Run a config: what ``kd-mm train`` and ``kd-mm test`` do, for programs."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from kd_mm.apis.data_config import clean_data_sets
from kd_mm.apis.overrides import override
from kd_mm.checks.anchors import AnchorCheckHook
from kd_mm.checks.classes import ClassListHook
from kd_mm.checks.config import check_config
from kd_mm.checks.failures import UNCHECKED, explain_failure
from kd_mm.checks.hooks import DataCheckHook, FlatBoxHook, StartCheckHook, StepHook
from kd_mm.checks.metrics import MetricCheckHook, named_metrics
from kd_mm.checks.unread import unread_keys
from kd_mm.checks.weights import LeftOverWeightsHook, check_checkpoint, check_pretrained
from kd_mm.datasets.identity_sampler import check_identity_batches
from kd_mm.hooks.resume_check import ResumeCheckHook
from kd_mm.hooks.run_checks import BatchSizeHook, FiniteLossHook, ScalingRunner
from kd_mm.utils.atomic_files import ATOMIC_BACKEND
from kd_mm.utils.config import as_list, is_distillation, load_config, set_scopes
from kd_mm.utils.contexts import unwrapped


def read_config(path: str, options: dict[str, Any] | None = None, work_dir: str | None = None) -> Config:
    """Read a config, apply command line overrides and settle its work dir.

    Args:
        path: Path of a config, or ``package::path``.
        options: Dotted keys and values, as ``--cfg-options`` gives them.
        work_dir: Overrides the config's; default ``work_dirs/<name of the config>``.

    Raises:
        FileNotFoundError: No such config.
        ValueError: A config that cannot be read, or an override that does not fit it.
    """
    config = load_config(path)
    override(config, options)
    if work_dir is not None:
        config.work_dir = work_dir
    elif config.get("work_dir") is None:
        config.work_dir = str(Path("work_dirs") / Path(path.split("::")[-1]).stem)
    if not config.work_dir:
        raise ValueError("work_dir is empty: name a folder")
    config.work_dir = str(Path(config.work_dir).expanduser())
    return config


def resume(config: Config, checkpoint: str) -> None:
    """Let a config go on from a checkpoint.

    Args:
        config: Complete.
        checkpoint: Path of the file, or ``auto`` for the last one of the work dir, which may have been moved since;
            where there is none, the run starts as the config has it.

    Raises:
        FileNotFoundError: The last checkpoint of the work dir does not exist.
        ValueError: It is no checkpoint, or cut short.
    """
    config.resume = True
    if checkpoint != "auto":
        config.load_from = checkpoint
        return
    stored = find_latest_checkpoint(config.work_dir)
    if stored is None:
        print(f"{config.work_dir} holds no checkpoint to resume: the run starts at its beginning", flush=True)
        config.resume = False
        return
    own = Path(config.work_dir, Path(stored).name)  # the folder may be a copy
    config.load_from = str(own) if own.is_file() and not (Path(stored).is_file() and own.samefile(stored)) else None
    if not Path(config.load_from or stored).is_file():
        raise FileNotFoundError(
            f"{config.work_dir}/last_checkpoint names {stored}, which does not exist: give another by --resume PATH, "
            "or remove that file"
        )
    check_checkpoint(config.load_from or stored)


def build_runner(config: Config, tested: bool = False, trained: Sequence[str] = ()) -> Runner:
    """Check a config and return its Runner; ``runner_type`` is honoured as upstream does.

    The log warns of top-level keys that look misspelt or that change nothing, and later of weights that a loaded file
    has too many and of test data that are not there.

    Args:
        config: Complete.
        tested: The training ends with a test, so that it stops before its first step where test data are not there.
        trained: For a test: the classes that the checkpoint was trained on, where they are known.

    Raises:
        FileNotFoundError: The checkpoint to start or to go on from does not exist.
        ValueError: It is no checkpoint, or cut short; or the config is wrong (:func:`check_config`) or cannot be built.
    """
    unread = unread_keys(config)
    set_scopes(config._cfg_dict)
    clean_data_sets(config)
    try:
        check_config(config)
        check_checkpoint(config.get("load_from"))
    except ValueError:
        print("\n".join(unread), flush=True, end="\n" if unread else "")  # one may be why
        raise
    # torch 2.4 and 2.5 warn of every file that the engine loads, also of those that were found safe above.
    warnings.filterwarnings("ignore", "You are using `torch.load`", FutureWarning, r"mmengine\.runner\.checkpoint")
    measure_at_data_size(config)
    _make_resumable(config)
    if is_distillation(config):
        unread += _left_out_hooks(config)
    if (config.get("randomness") or {}).get("deterministic"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it torch refuses matrix products on GPUs
    try:
        runner: Runner = RUNNERS.build(config) if "runner_type" in config else ScalingRunner.from_cfg(config)
    except UNCHECKED as error:  # such as one of upstream's frozen_stages=9
        raise ValueError(f"the config cannot be built: {type(error).__name__}: {error}") from error
    for line in unread:
        print_log(line, logger="current", level=logging.WARNING)
    for hook in (
        LeftOverWeightsHook(),
        DataCheckHook(tested),
        ClassListHook(trained),
        StartCheckHook(),
        FlatBoxHook(),
        AnchorCheckHook(),
        MetricCheckHook(named_metrics(config)),
        FiniteLossHook(),
        BatchSizeHook(),
        ResumeCheckHook(),
    ):
        runner.register_hook(hook)
    return runner


def train(config: Config) -> Runner:
    """Train a config.

    A run that fails before its first step has ended leaves no log and no written config behind.

    Returns:
        The Runner, trained.

    Raises:
        ValueError: The config is wrong; see :func:`build_runner` and
            :func:`~kd_mm.datasets.identity_sampler.check_identity_batches`.
        NonFiniteLossError: A loss was infinite or NaN, or weights that would have been saved.
        SampleError: A data pipeline, the collate function or the data preprocessor failed on images.
        RuntimeError: A training step failed with an error that a config may cause before.
        KeyboardInterrupt: The user interrupted it.
    """
    steps = StepHook()
    with no_trace_of_failure(config.work_dir, lambda: not steps.ended):
        return _train(config, steps)


def _train(config: Config, steps: StepHook) -> Runner:
    check_identity_batches(config)
    if get_device() == "cpu" and str((config.get("optim_wrapper") or {}).get("type")).endswith("AmpOptimWrapper"):
        raise ValueError("optim_wrapper.type: AmpOptimWrapper needs a GPU: give --amp, or take OptimWrapper")
    runner = None
    try:
        runner = build_runner(config)
        if not config.get("resume"):
            check_pretrained(unwrapped(runner))
        runner.register_hook(steps)
        runner.train()
    except Exception as error:
        # What the engine makes of an interruption while it formats the config, which it does for each checkpoint.
        if isinstance(error, SyntaxError) and isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        explain_failure(config, runner, steps, error)
        raise
    return runner


def _left_out_hooks(config: Config) -> list[str]:
    """Take mmdet's look at ``outputs["loss"]`` out of a distillation, which gives numbers once per logging interval."""
    hooks = as_list(config.get("custom_hooks"))
    kept = [each for each in hooks if not (isinstance(each, dict) and "CheckInvalidLossHook" in str(each.get("type")))]
    if len(kept) == len(hooks):
        return []
    config.custom_hooks = kept
    return ["custom_hooks: CheckInvalidLossHook is left out, a distillation looks at its losses itself"]


@contextlib.contextmanager
def no_trace_of_failure(work_dir: str, starts: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Remove the log and the written config of a run that fails.

    Args:
        work_dir: The work dir, in which anything else that is new keeps them.
        starts: Returns whether the run is still in its start; one that has come further keeps them, too.

    Raises:
        ValueError: The work dir is a file.
    """
    folder = Path(work_dir).absolute()
    if folder.is_file():
        raise ValueError(f"work dir {work_dir} is a file, not a folder")
    new_folders = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    before = set(folder.iterdir()) if folder.is_dir() else set()
    try:
        yield
    except Exception:
        if starts() and is_main_process():
            with contextlib.suppress(OSError):
                _remove_start(folder, before, new_folders)
        raise


def measure_at_data_size(config: Config) -> None:
    """Let a distillation's dry run have images of the size that its data have, where the config fixes it."""
    from kd_mm.apis.stages import config_input_size

    if is_distillation(config) and not config.model.get("input_size"):
        config.model.input_size = config_input_size(config)


def _make_resumable(config: Config) -> None:
    """Let any config write checkpoints that a kill cannot spoil, and resume exactly."""
    if config.get("default_hooks") is None:
        config.default_hooks = {}
    hooks = config.default_hooks
    checkpoint = hooks.setdefault("checkpoint", {"type": "CheckpointHook", "interval": 1})
    if checkpoint is not None and checkpoint.get("type") in (
        "CheckpointHook",
        "mmengine.CheckpointHook",
        CheckpointHook,
    ):
        checkpoint.setdefault("backend_args", {"backend": ATOMIC_BACKEND})
    hooks.setdefault("exact_resume", {"type": "kd_mm.ExactResumeHook"})


def _remove_start(folder: Path, before: set[Path], new_folders: list[Path]) -> None:
    """Remove what a start wrote into a work dir, where that is the log, the config and a lock alone."""
    new = set(folder.iterdir()) - before if folder.is_dir() else set()
    logs = {path for path in new if path.is_dir() and re.fullmatch(r"\d{8}_\d{6}", path.name)}
    files = {path for path in new if path.suffix in (".py", ".lock")}
    if new - logs - files:
        return
    for path in files:
        path.unlink()
    for path in logs:
        shutil.rmtree(path)
    for path in new_folders:
        path.rmdir()  # fails, and so ends this, at the first that holds something
