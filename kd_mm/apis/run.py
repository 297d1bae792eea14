"""Running a config: what tools/train.py and tools/test.py do, for programs."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from kd_mm.apis.class_count import ClassCountHook
from kd_mm.apis.data_check import DataCheckHook
from kd_mm.apis.explain import said
from kd_mm.apis.remarks import LeftOverWeightsHook, misspelt_keys
from kd_mm.utils.config import load_config
from kd_mm.utils.safe_load import UnsafeCheckpointError, load_safely
from kd_mm.utils.suggest import nearest_file


def read_config(path: str, options: dict[str, Any] | None = None, work_dir: str | None = None) -> Config:
    """Read a config, apply command line overrides and settle its work dir.

    Args:
        path: Path of a config, or ``package::path``.
        options: Dotted keys and values, as ``--cfg-options`` gives them.
        work_dir: Overrides the config's; default ``work_dirs/<name of the config>``.

    Raises:
        FileNotFoundError: No such config.
        ValueError: A config that is not understood, or an override that does not fit it.
    """
    config = load_config(path)
    override(config, options)
    if work_dir is not None:
        config.work_dir = work_dir
    elif config.get("work_dir") is None:
        config.work_dir = str(Path("work_dirs") / Path(path.split("::")[-1]).stem)
    return config


def override(config: Config, options: dict[str, Any] | None) -> None:
    """Set dotted keys of a config; modules that ``custom_imports`` names only now are imported.

    Raises:
        ValueError: A key that the config's structure does not allow.
        ImportError: A module that cannot be imported.
    """
    for key, value in (options or {}).items():
        try:
            config.merge_from_dict({key: value})
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, AssertionError) as error:
            raise ValueError(f"override {key}={value}: {said(error)}") from error
    if any(key.split(".")[0] == "custom_imports" for key in options or {}):
        import_modules_from_strings(**config.custom_imports)


def use_amp(config: Config) -> None:
    """Switch a config to mixed precision: bfloat16 where the device has it, else float16 with loss scaling."""
    wrapper = config.optim_wrapper
    # torch's own question counts emulation in, which is slower than float32.
    if torch.cuda.is_available() and not torch.version.hip and torch.cuda.get_device_capability() < (8, 0):
        wrapper.type = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")
        return
    for key in ("loss_scale", "dtype", "use_fsdp"):
        wrapper.pop(key, None)
    wrapper.type = "kd_mm.Bf16OptimWrapper"


def use_launcher(config: Config, launcher: str) -> None:
    """Prepare a config for several processes.

    Without CUDA the process group is made here, over gloo: mmengine would ask for a CUDA device. Every part of a
    Distiller gets a gradient in every step, so the search for unused parameters stays off.

    Raises:
        ValueError: A launcher that needs CUDA, processes that were not started, or more of them than GPUs.
    """
    config.launcher = launcher
    if launcher == "none":
        return
    if torch.cuda.is_available():
        _check_gpus(launcher)
        return
    if launcher != "pytorch":
        raise ValueError(f"--launcher {launcher} needs CUDA; without it use --launcher pytorch")
    if "RANK" not in os.environ:
        raise ValueError(f"--launcher {launcher}: start it with torchrun --nproc_per_node N tools/train.py CONFIG ...")
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    wrapper = {"find_unused_parameters": config.get("find_unused_parameters", False), "broadcast_buffers": False}
    wrapper = config.get("model_wrapper_cfg") or {"type": "MMDistributedDataParallel", **wrapper}
    config.model_wrapper_cfg = {**wrapper, "device_ids": None}  # mmengine's own default is a CUDA device


def _check_gpus(launcher: str) -> None:
    started, devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if started > devices:
        raise ValueError(
            f"--launcher {launcher}: {started} processes were started, and {devices} GPU(s) are visible: each needs "
            f"its own; take --nproc_per_node {devices}, or CUDA_VISIBLE_DEVICES= for the CPU"
        )


def build_runner(config: Config, tested: bool = False) -> Runner:
    """Return the Runner of a config; ``runner_type`` is honoured as upstream does.

    The log warns of top-level keys that look misspelt, and later of weights that a loaded file has too many and of test
    data that are not there.

    Args:
        config: Whole.
        tested: The training ends with a test, so that it stops before its first step where test data are not there.

    Raises:
        FileNotFoundError: The checkpoint to start or to go on from does not exist.
        ValueError: It is no checkpoint, or cut short.
    """
    start = config.get("load_from")
    if start and "://" not in start and not Path(start).expanduser().is_file():
        raise FileNotFoundError(f"checkpoint {start} does not exist{nearest_file(Path(start))}")
    if start and "://" not in start:
        with contextlib.suppress(UnsafeCheckpointError):  # the engine's affair, which may read it
            load_safely(Path(start).expanduser())
    # Said by torch 2.4 and 2.5 of every file that the engine loads, also of those that were found safe above.
    warnings.filterwarnings("ignore", "You are using `torch.load`", FutureWarning, r"mmengine\.runner\.checkpoint")
    measure_at_data_size(config)
    if (config.get("randomness") or {}).get("deterministic"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it torch refuses matrix products on GPUs
    try:
        runner: Runner = RUNNERS.build(config) if "runner_type" in config else Runner.from_cfg(config)
    finally:  # into the log where there is one by now; a misspelt key may be why there is none
        for line in misspelt_keys(config):
            print_log(line, logger="current", level=logging.WARNING)
    runner.register_hook(LeftOverWeightsHook())
    runner.register_hook(ClassCountHook())
    runner.register_hook(DataCheckHook(tested))
    return runner


def measure_at_data_size(config: Config) -> None:
    """Let a distillation's dry run see images of the size that its data have, where the config says it."""
    from kd_mm.apis.stages import config_input_size

    if str(config.model.get("type", "")).endswith("Distiller") and not config.model.get("input_size"):
        config.model.input_size = config_input_size(config)


def set_threads() -> None:
    """Let processes on one machine share its cores instead of fighting for them."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
