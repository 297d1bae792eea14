"""Parts that a config of these tests imports: hooks that write down what each process holds and sees; a schedule."""

from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from kd_mm.losses.schedules import Progress, Schedule
from kd_mm.registry import HOOKS, SCHEDULES


@HOOKS.register_module()
class Spy(Hook):
    """Writes ``<moment><rank>.pt`` into the work dir before the first step, after it, and after the last one."""

    priority = "LOWEST"

    def before_train(self, runner: Runner) -> None:
        self.write(runner, "start")

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if runner.iter == 0:
            self.write(runner, "first")

    def after_train(self, runner: Runner) -> None:
        self.write(runner, "end")

    def write(self, runner: Runner, moment: str) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        optimizer = runner.optim_wrapper.optimizer
        # After the first step the momentum is the gradient, plus the weight decay's share.
        momentum = {
            names[id(parameter)]: held["momentum_buffer"].clone()
            for parameter, held in optimizer.state.items()
            if held.get("momentum_buffer") is not None
        }
        state = {
            "weights": dict(model.state_dict()),
            "parameters": sorted(names.values()),
            "momentum": momentum,
            "exits": {name: teacher.exits.state_dict() for name, teacher in model.teachers.items()},
            "unused": getattr(runner.model, "find_unused_parameters", None),
            "iterations": runner.iter,
        }
        torch.save(state, Path(runner.work_dir) / f"{moment}{runner.rank}.pt")


@HOOKS.register_module()
class BatchRecorderHook(Hook):
    """Writes the images of each step into ``batches<rank>``."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        folder, rank = Path(runner.work_dir), runner.rank
        names = [Path(sample.img_path).name for sample in data_batch["data_samples"]]
        with (folder / f"batches{rank}").open("a") as file:
            print(runner.epoch, runner.iter, *names, file=file)


@SCHEDULES.register_module()
class Late(Schedule):
    """Nothing in the first epoch, everything after it."""

    def __call__(self, progress: Progress) -> float:
        return float(progress.epoch > 0)
