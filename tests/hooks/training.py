"""Trains a tiny classifier that can be killed."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS, TRANSFORMS
from mmengine.runner import Runner
from mmengine.runner import runner as runner_module
from mmpretrain.datasets import BaseDataset

from kd_mm.engine import atomic_files
from kd_mm.hooks.checkpoint import CheckpointHook  # noqa: F401  registers
from kd_mm.hooks.exact_resume import ExactResumeHook  # noqa: F401  registers


@DATASETS.register_module()
class ToyImages(BaseDataset):
    def __init__(self, length: int, touched: str | None = None, **kwargs: object) -> None:
        self.length = length
        self.touched = touched
        super().__init__(ann_file="", metainfo={"classes": ("a", "b", "c")}, serialize_data=False, **kwargs)

    def load_data_list(self) -> list[dict]:
        rng = np.random.RandomState(7)
        return [{"img": rng.randint(0, 255, (16, 16, 3), np.uint8), "gt_label": i % 3} for i in range(self.length)]

    def __getitem__(self, index: int) -> dict:
        if self.touched:
            with open(self.touched, "a") as file:
                file.write(f"{index}\n")
        return super().__getitem__(index)


@DATA_SAMPLERS.register_module()
class GlobalSampler:
    """Shuffles by numpy's global state, all at once at the start of a pass or, ``lazy``, as it goes."""

    def __init__(self, dataset: BaseDataset, seed: int | None = None, lazy: bool = False) -> None:
        self.length = len(dataset)
        self.lazy = lazy

    def __iter__(self) -> Iterator[int]:
        if self.lazy:
            return (int(np.random.randint(self.length)) for _ in range(self.length))
        return iter(np.random.permutation(self.length).tolist())

    def __len__(self) -> int:
        return self.length


@TRANSFORMS.register_module()
class Noise(BaseTransform):
    """Draws from all three generators."""

    def transform(self, results: dict) -> dict:
        level = random.random() + np.random.rand() + float(torch.rand(()))
        results["img"] = (results["img"] * (0.5 + level / 6)).astype(np.uint8)
        results["img_shape"] = results["img"].shape[:2]
        return results


@HOOKS.register_module()
class Trace(Hook):
    """Writes down what each iteration saw, and kills the process before iteration ``kill_before``."""

    priority = "VERY_HIGH"

    def __init__(self, path: str, kill_before: int | None = None) -> None:
        self.path = path
        self.kill_before = kill_before

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.kill_before:
            os.killpg(0, signal.SIGKILL)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with open(self.path, "a") as file:
            file.write(json.dumps([runner.epoch, runner.iter, batch_idx, float(outputs["loss"])]) + "\n")


def config(job: dict) -> dict:
    work = Path(job["work_dir"])
    pipeline = [
        {"type": "Noise"},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "RandomCrop", "crop_size": 16, "padding": 2},
        {"type": "PackInputs"},
    ]
    workers = job.get("workers", 0)
    widths = job.get("widths", (4, 4, 8, 16))
    persistent = job.get("persistent", False)
    val_workers = job.get("val_workers", workers)

    def forked(count: int) -> dict:
        return {"num_workers": count, "persistent_workers": persistent and count > 0}

    hooks = {
        "logger": {"type": "LoggerHook", "interval": 100},
        "checkpoint": {"type": "kd_mm.CheckpointHook", "max_keep_ckpts": 1, **job.get("checkpoint", {})},
        "exact_resume": {"type": "kd_mm.ExactResumeHook"},
    }
    if job.get("upstream"):
        hooks["checkpoint"] = {"type": "CheckpointHook", **job.get("checkpoint", {})}
        del hooks["exact_resume"]
    loop = job.get("loop", {"by_epoch": True, "max_epochs": 3, "val_interval": 1})
    end = loop.get("max_epochs", loop.get("max_iters"))
    toy = {"type": "ToyImages", "length": 14, "pipeline": pipeline, "touched": job.get("touched")}
    validation = {"type": "ToyImages", "length": 6, "pipeline": pipeline, "test_mode": True}
    train_loader = {
        "batch_size": 4,
        "dataset": toy,
        **forked(workers),
        "sampler": {"type": "DefaultSampler", "shuffle": True},
    }
    train_loader.update(job.get("loader", {}))
    return {
        "default_scope": "mmpretrain",
        "work_dir": str(work),
        "model": {
            "type": "ImageClassifier",
            "data_preprocessor": {"mean": [127.0] * 3, "std": [127.0] * 3, "num_classes": 3, "to_onehot": True},
            "backbone": {"type": "kd_mm.CIFARResNet", "depth": 8, "widths": widths},
            "neck": {"type": "GlobalAveragePooling"},
            "head": {
                "type": "StackedLinearClsHead",
                "num_classes": 3,
                "in_channels": widths[-1],
                "mid_channels": [8],
                "dropout_rate": 0.5,
                "loss": {"type": "CrossEntropyLoss", "use_soft": True},
            },
            "train_cfg": {"augments": {"type": "Mixup", "alpha": 0.8}},
        },
        "train_dataloader": train_loader,
        "val_dataloader": {
            "batch_size": 6,
            "dataset": validation,
            **forked(val_workers),
            "sampler": {"type": "DefaultSampler", "shuffle": False},
        },
        "val_evaluator": {"type": "Accuracy"},
        "train_cfg": loop,
        "val_cfg": {},
        "optim_wrapper": {
            "optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9},
            "accumulative_counts": job.get("accumulate", 1),
        },
        "param_scheduler": [{"type": "CosineAnnealingLR", "T_max": end, "by_epoch": loop["by_epoch"]}],
        "default_hooks": hooks,
        "custom_hooks": [
            {"type": "EMAHook", "momentum": 0.1},
            {
                "type": "Trace",
                "path": str(work / f"trace{os.environ.get('RANK', 0)}"),
                "kill_before": job.get("kill_before"),
            },
            *job.get("hooks", []),
        ],
        "log_processor": {"by_epoch": loop["by_epoch"]},
        "log_level": "INFO",
        "randomness": {"seed": job.get("seed")},
        "env_cfg": {},
        "resume": job.get("resume", False),
        "load_from": job.get("load_from"),
        **job.get("runner", {}),
    }


def _arm(kill: dict) -> None:
    """Die for real inside a file operation: ``call`` names it, ``name`` is part of the target's name."""
    original = getattr(atomic_files.os, kill["call"])
    left = [kill.get("nth", 1)]

    def deadly(*args):
        names = [str(a) for a in args]
        if kill["call"] == "fsync":
            names = [os.readlink(f"/proc/self/fd/{args[0]}")]
        if any(kill["name"] in os.path.basename(n) for n in names) and not os.path.isdir(names[0]):
            left[0] -= 1
            if left[0] == 0:
                if kill["call"] == "fsync":
                    os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
                os.killpg(0, signal.SIGKILL)
        return original(*args)

    setattr(atomic_files.os, kill["call"], deadly)


def _fail_on(name: str) -> None:
    """The disk is full for every file whose name holds ``name``."""
    original = atomic_files.os.fsync

    def full(handle):
        if name in os.path.basename(os.readlink(f"/proc/self/fd/{handle}")):
            raise OSError(28, "No space left on device")
        return original(handle)

    atomic_files.os.fsync = full


def run(job: dict) -> None:
    if "kill" in job:
        _arm(job["kill"])
    if "full" in job:
        _fail_on(job["full"])
    cfg = config(job)
    if "world_size" in job:
        cfg.update(launcher="pytorch", model_wrapper_cfg={"type": "MMDistributedDataParallel", "device_ids": None})
        cfg["model_wrapper_cfg"]["broadcast_buffers"] = False
    runner = Runner.from_cfg(cfg)
    runner.train()
    # What the next draws would be shows whether the random states agree to the end.
    draws = [random.random(), float(np.random.rand()), float(torch.rand(()))]
    ema = next(hook for hook in runner.hooks if type(hook).__name__ == "EMAHook").ema_model
    stop = [[h.wait_count, h.best_score] for h in runner.hooks if type(h).__name__ == "EarlyStoppingHook"]
    torch.save(
        {
            "model": runner.model.state_dict(),
            "ema": ema.state_dict(),
            "optimizer": runner.optim_wrapper.state_dict(),
            "schedulers": [scheduler.state_dict() for scheduler in runner.param_schedulers],
            "draws": draws,
            "stop": stop,
            "best": runner.message_hub.runtime_info.get("best_score"),
        },
        Path(job["work_dir"]) / f"final{runner.rank}.pt",
    )


def join_group(job: dict) -> None:
    def init(*args: object, **kwargs: object) -> None:
        rank, store = int(os.environ["RANK"]), f"file://{job['rendezvous']}"
        torch.distributed.init_process_group("gloo", store, rank=rank, world_size=job["world_size"])

    # The engine's own launcher asks for a CUDA device.
    runner_module.init_dist = init


def main(asked: dict) -> None:
    """Do a job in this process, which is its own."""
    os.setpgid(0, 0)  # a job that is killed takes its data workers along
    log = os.open(str(Path(asked["work_dir"]) / "output"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if "world_size" in asked:
        join_group(asked)
    run(asked)
