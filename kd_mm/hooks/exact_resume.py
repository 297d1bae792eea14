"""A resumed run that equals the uninterrupted one bit for bit."""

import re
from bisect import bisect
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, barrier, get_rank, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import BatchSampler, IterableDataset

from kd_mm.distillers import Distiller
from kd_mm.engine.resumable_loader import EndlessBatches, ResumableLoader
from kd_mm.hooks.ema_teacher import ema_teachers
from kd_mm.registry import HOOKS
from kd_mm.utils.atomic_files import replace_file
from kd_mm.utils.contexts import capture_random_state, restore_random_state, unwrapped

_KEY = "exact_resume"


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Stores in each resumable checkpoint what mmengine leaves out, and restores it on ``resume``.

    Stored for each process: random states; the position in the pass over the training data; gradients accumulated so
    far; buffers that differ from the first process's. A validation that was due after the checkpoint is run first. In
    the epoch in which a run is resumed ``batch_idx`` counts from the resumption. Without worker processes a run's
    random numbers are those of a run without this hook, with them they depend on seed, pass and batch alone.

    Not covered: iterable data sets, loops of other types, samplers that draw global random numbers, transforms that
    cache earlier images, another number of processes, workers where there were none. A warning names what can be
    detected.
    """

    priority = 85  # just before CheckpointHook, which saves on rank 0 alone: the other ranks' states are gathered first

    def __init__(self) -> None:
        self._loaders: dict[str, ResumableLoader] = {}
        self._loaded: dict[str, Any] | None = None
        self._gathered: list[dict[str, Any]] | None = None
        self._validated = self._due = False

    def before_run(self, runner: Runner) -> None:
        """Name the newest checkpoint if ``last_checkpoint`` names none: a kill came before it was rewritten."""
        note = Path(runner.work_dir, "last_checkpoint")
        if is_main_process() and note.is_file() and not Path(note.read_text() or "missing").is_file():
            for hook in (hook for hook in runner.hooks if isinstance(hook, CheckpointHook)):
                folder = Path(hook.out_dir, note.parent.name) if hook.out_dir else note.parent
                # Not a published copy, such as epoch_3-0a1b2c3d.pth, which holds weights alone.
                name = re.compile(re.sub(r"\\\{.*\\\}", r"\\d+", re.escape(hook.filename_tmpl)))
                found = [path for path in folder.glob("*") if name.fullmatch(path.name)]
                newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
                if newest:
                    replace_file(note, str(newest).encode())
        barrier()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take out what :meth:`before_save_checkpoint` put in."""
        self._loaded = checkpoint.pop(_KEY, None)

    def before_train(self, runner: Runner) -> None:
        """Follow the loaders; restore the state if the run is resumed."""
        for name, loop in (("train", runner.train_loop), ("val", runner.val_loop)):
            if isinstance(loop, BaseLoop):
                self._follow(runner, name, loop)
        loaded, self._loaded = self._loaded, None
        if runner.iter == 0:
            return
        if loaded is None:
            self._warn(runner, "the checkpoint holds no state of kd_mm.ExactResumeHook, or no optimizer")
        elif len(loaded["ranks"]) != get_world_size():
            self._warn(runner, f"the checkpoint was saved by {len(loaded['ranks'])} processes")
        else:
            self._restore(runner, loaded["ranks"][get_rank()])
            train = self._loaders.get("train")
            in_epoch = train and isinstance(runner.train_loop, EpochBasedTrainLoop) and train.position > 0
            valid = loaded["validated"] or runner.val_loop is None
            self._due = train is not None and not in_epoch and not valid

    def before_train_epoch(self, runner: Runner) -> None:
        """Run the validation that was due right after the checkpoint."""
        due, self._due = self._due, False
        if not due:
            return
        loop = runner.train_loop
        epochs = isinstance(loop, EpochBasedTrainLoop)
        now, last = (loop.epoch, loop.max_epochs) if epochs else (loop.iter, loop.max_iters)
        interval = loop.dynamic_intervals[bisect(loop.dynamic_milestones, now + 1) - 1]
        if now >= loop.val_begin and (now % interval == 0 or now == last):
            runner.logger.info("The checkpoint was saved before the validation that was due: validating now.")
            runner.val_loop.run()

    after_train = before_train_epoch  # no epoch follows the last checkpoint

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._validated, self._gathered = False, None

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Gather the states of all processes where a checkpoint is due."""
        hooks = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook) and not hook.by_epoch)
        if any(hook.is_last_train_iter(runner) or hook.every_n_train_iters(runner, hook.interval) for hook in hooks):
            self._gather(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._gather(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Gather the states of all processes: the checkpoint is saved again where its score is the best."""
        self._validated = True
        self._gather(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the state to a checkpoint that can be resumed from (one that holds the optimizer)."""
        if "optimizer" not in checkpoint:
            return
        checkpoint[_KEY] = {"validated": self._validated, "ranks": self._gathered or [self._state(runner)]}

    def _follow(self, runner: Runner, name: str, loop: BaseLoop) -> None:
        known = name == "val" or isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop))
        indexable = not isinstance(loop.dataloader.dataset, IterableDataset)
        if not known or not indexable or not isinstance(loop.dataloader.batch_sampler, BatchSampler):
            self._warn(runner, f"the position in the {name} data cannot be followed")
            return
        self._loaders[name] = loop.dataloader = ResumableLoader(loop.dataloader, (runner.seed, get_rank()))
        if isinstance(loop, IterBasedTrainLoop):
            loop.dataloader_iterator = EndlessBatches(loop.dataloader)

    def _gather(self, runner: Runner) -> None:
        if get_world_size() == 1:
            return
        self._gathered = all_gather_object(self._state(runner))
        first = self._gathered[0]["buffers"]
        for state in self._gathered:
            state["buffers"] = {name: value for name, value in state["buffers"].items() if not value.equal(first[name])}

    def _state(self, runner: Runner) -> dict[str, Any]:
        model = unwrapped(runner)
        return {
            "random": capture_random_state(),
            "loaders": {name: loader.state_dict() for name, loader in self._loaders.items()},
            "gradients": {k: p.grad.cpu().clone() for k, p in model.named_parameters() if p.grad is not None},
            "buffers": {k: b.cpu().clone() for k, b in _buffers(model).items()} if get_world_size() > 1 else {},
        }

    def _restore(self, runner: Runner, state: dict[str, Any]) -> None:
        model = unwrapped(runner)
        buffers, parameters = _buffers(model), dict(model.named_parameters())
        for name, value in state["buffers"].items():
            buffers[name].copy_(value)
        for name, gradient in state["gradients"].items():
            parameters[name].grad = gradient.to(parameters[name].device)
        for hook in (hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)):
            history = runner.message_hub.log_scalars.get(f"val/{hook.monitor}")
            for value in history.data[0] if history else ():
                hook.after_val_epoch(runner, {hook.monitor: float(value)})
        for name, loader in self._loaders.items():
            loader.load_state_dict(state["loaders"].get(name, loader.state_dict()))
            if loader.position:
                runner.logger.info(f"Going on after batch {loader.position} of this pass over the {name} data.")
        restore_random_state(state["random"])

    def _warn(self, runner: Runner, reason: str) -> None:
        runner.logger.warning(f"A resumed run will differ from an uninterrupted one: {reason}.")


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers by name, those of teachers that follow the student included."""
    buffers = dict(model.named_buffers())
    for name, teacher in ema_teachers(model).items() if isinstance(model, Distiller) else ():
        buffers.update({f"distill.teachers.{name}.{key}": value for key, value in teacher.parts().named_buffers()})
    return buffers
