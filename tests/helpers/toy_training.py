"""A tiny classifier that trains in a process of its own and can be killed; what tests ask of such a run."""

import itertools
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS, TRANSFORMS
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset

from kd_mm.utils.atomic_files import ATOMIC_BACKEND

from . import faults
from .tools import forked


@DATASETS.register_module()
class ToyImages(BaseDataset):
    """Images of noise; ``loaded`` names a file to which the index of each loaded image is added."""

    def __init__(self, length: int, loaded: str | None = None, **kwargs: object) -> None:
        self.length, self.loaded = length, loaded
        super().__init__(ann_file="", metainfo={"classes": ("a", "b", "c")}, serialize_data=False, **kwargs)

    def load_data_list(self) -> list[dict]:
        rng = np.random.RandomState(7)
        return [{"img": rng.randint(0, 255, (16, 16, 3), np.uint8), "gt_label": i % 3} for i in range(self.length)]

    def __getitem__(self, index: int) -> dict:
        if self.loaded:
            with open(self.loaded, "a") as file:
                file.write(f"{index}\n")
        return super().__getitem__(index)


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
    """Writes down the loss of each iteration, and kills the process group before iteration ``kill_before``.

    Or before the validation that comes before it.
    """

    priority = "VERY_HIGH"

    def __init__(self, path: str, kill_before: int | None = None) -> None:
        self.path, self.kill_before = path, kill_before

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.kill_before:
            os.killpg(0, signal.SIGKILL)

    def before_val(self, runner):
        if runner.iter == self.kill_before:
            os.killpg(0, signal.SIGKILL)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with open(self.path, "a") as file:
            file.write(json.dumps([runner.epoch, runner.iter, float(outputs["loss"])]) + "\n")


def config(work_dir: Path, **job: Any) -> dict:
    """Return a config of 3 epochs of 4 iterations with dropout, augmentations and a moving average.

    ``job`` holds changes; ``upstream`` leaves out what kd_mm adds.
    """
    pipeline = [
        {"type": "Noise"},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "RandomCrop", "crop_size": 16, "padding": 2},
        {"type": "PackInputs"},
    ]
    widths, workers = job.get("widths", (4, 4, 8, 16)), job.get("workers", 0)
    loop = job.get("loop", {"by_epoch": True, "max_epochs": 3, "val_interval": 1})

    def loader(count: int, batch_size: int, shuffle: bool, **dataset: Any) -> dict:
        return {
            "batch_size": batch_size,
            "dataset": {"type": "ToyImages", "pipeline": pipeline, **dataset},
            "num_workers": count,
            "persistent_workers": job.get("persistent", False) and count > 0,
            "sampler": {"type": "DefaultSampler", "shuffle": shuffle},
        }

    hooks = {
        "logger": {"type": "LoggerHook", "interval": 100},
        "checkpoint": {"type": "CheckpointHook", "max_keep_ckpts": 1, **job.get("checkpoint", {})},
    }
    if not job.get("upstream"):
        hooks["checkpoint"]["backend_args"] = {"backend": ATOMIC_BACKEND}
        hooks["exact_resume"] = {"type": "kd_mm.ExactResumeHook"}
    trace = {"type": "Trace", "path": str(work_dir / f"trace{os.environ.get('RANK', 0)}")}
    return {
        "default_scope": "mmpretrain",
        "work_dir": str(work_dir),
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
        "train_dataloader": {
            **loader(workers, 4, True, length=14, loaded=job.get("loaded")),
            **job.get("loader", {}),
        },
        "val_dataloader": loader(job.get("val_workers", workers), 6, False, length=6, test_mode=True),
        "val_evaluator": {"type": "Accuracy"},
        "train_cfg": loop,
        "val_cfg": {},
        "optim_wrapper": {
            "optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9},
            "accumulative_counts": job.get("accumulate", 1),
        },
        "param_scheduler": [
            {
                "type": "CosineAnnealingLR",
                "T_max": loop.get("max_epochs", loop.get("max_iters")),
                "by_epoch": loop["by_epoch"],
            }
        ],
        "default_hooks": hooks,
        "custom_hooks": [
            {"type": "EMAHook", "momentum": 0.1},
            {**trace, "kill_before": job.get("kill_before")},
            *job.get("hooks", []),
        ],
        "log_processor": {"by_epoch": loop["by_epoch"]},
        "randomness": {"seed": job.get("seed")},
        "resume": job.get("resume", False),
        "load_from": job.get("load_from"),
        **job.get("runner", {}),
    }


def train(work_dir: Path, job: dict) -> None:
    """Train in this process, which is one of ``RANK`` where that is set, and leave the final state."""
    os.setpgid(0, 0)  # a job that is killed takes its data workers along
    if "kill" in job:
        faults.arm(job["kill"])
    if "full" in job:
        faults.fill_disk(job["full"])
    settings = config(work_dir, **job)
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")  # the engine's launcher asks for a CUDA device
        wrapper = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}
        settings.update(launcher="pytorch", model_wrapper_cfg=wrapper)
    runner = Runner.from_cfg(settings)
    runner.train()
    (ema,) = (hook.ema_model for hook in runner.hooks if type(hook).__name__ == "EMAHook")
    state = {
        "model": runner.model.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": runner.optim_wrapper.state_dict(),
        "schedulers": [scheduler.state_dict() for scheduler in runner.param_schedulers],
        # What the next draws would be shows whether the random states agree to the end.
        "draws": [random.random(), float(np.random.rand()), float(torch.rand(()))],
        "stop": [[h.wait_count, h.best_score] for h in runner.hooks if type(h).__name__ == "EarlyStoppingHook"],
        "best": runner.message_hub.runtime_info.get("best_score"),
    }
    torch.save(state, work_dir / f"final{runner.rank}.pt")


class Trainings:
    """Runs trainings on the CPU, where hooks promise equal bits."""

    def __init__(self, logs: Path) -> None:
        self.logs, self.numbers = logs, itertools.count()

    def run(self, work_dir: Path, ranks: int = 1, **job: Any) -> int:
        """Train; return the exit status, negative for a signal. The output is in ``work_dir / "output"``."""
        work_dir.mkdir(parents=True, exist_ok=True)
        logs = self.logs / str(next(self.numbers))
        logs.mkdir()
        ended = forked(train, work_dir, job, logs=logs, env={"CUDA_VISIBLE_DEVICES": ""}, ranks=ranks)
        (work_dir / "output").write_text(ended.out + ended.err)
        return ended.status

    def finish(self, work_dir: Path, **job: Any) -> dict:
        """Train to the end; return the final state."""
        status = self.run(work_dir, **job)
        assert status == 0, (work_dir / "output").read_text()[-3000:]
        return final(work_dir)


def final(work_dir: Path, rank: int = 0) -> dict:
    """Return the state at the end of a run."""
    return torch.load(work_dir / f"final{rank}.pt", weights_only=False)


def trace(work_dir: Path) -> list[tuple]:
    """Return (epoch, iteration, loss) of each iteration, in the order done."""
    return [tuple(json.loads(line)) for line in (work_dir / "trace0").read_text().splitlines()]


def same_iterations(work_dir: Path, reference: Path) -> bool:
    """Return whether every iteration of a run, repeated ones included, is one of the reference, and none is missing."""
    return set(trace(work_dir)) == set(trace(reference))
