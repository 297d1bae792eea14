"""What options of the command lines do: --amp, --launcher, and how many threads a process takes."""

import os

import torch
from mmengine.config import Config


def enable_amp(config: Config) -> None:
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


def set_up_launcher(config: Config, launcher: str) -> None:
    """Prepare a config for several processes.

    Without CUDA the process group is made here, over gloo: mmengine would ask for a CUDA device. Every part of a
    Distiller gets a gradient in every step, so the search for unused parameters stays off.

    Raises:
        ValueError: A launcher that needs CUDA, processes that were not started, or more of them than GPUs; or several
            that were started without a launcher.
    """
    config.launcher = launcher
    if launcher == "none":
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started > 1 and "LOCAL_RANK" in os.environ:
            raise ValueError(f"{started} processes were started, which would train apart: give --launcher pytorch")
        return
    if torch.cuda.is_available():
        started, devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if started > devices:
            raise ValueError(
                f"--launcher {launcher}: {started} processes were started, and {devices} GPU(s) are visible: each "
                f"needs its own; take --nproc_per_node {devices}, or CUDA_VISIBLE_DEVICES= for the CPU"
            )
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


def set_threads() -> None:
    """Let processes on one machine share its cores instead of fighting for them."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
