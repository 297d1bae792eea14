"""A resumed run that equals the uninterrupted one bit for bit."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import Tensor, nn

from kd_mm.hooks.exact_loader import Place, follow
from kd_mm.hooks.random_state import capture_random_state, pack, restore_random_state
from kd_mm.hooks.volatile_state import (
    cached_transforms,
    hook_states,
    module_attributes,
    restore_hook_states,
    restore_module_attributes,
)
from kd_mm.registry import HOOKS

_KEY = "exact_resume"


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Stores in each resumable checkpoint what mmengine leaves out, and brings it back on ``resume``.

    Stored, per process where processes differ: the random states of python, numpy, torch and CUDA; those of each
    data-loading worker after the last batch that was used; the place within the epoch; gradients accumulated so far;
    buffers of the other ranks; the counters of the optimizer wrapper; the counters of ``EarlyStoppingHook`` and of
    every hook that has ``state_dict()`` and ``load_state_dict()``. Batches that were done are not loaded again, and
    hooks see the true ``batch_idx``. A validation that was due after the checkpoint is done first, as it would have
    been. The random numbers of a run that is not interrupted are those of a run without this hook.

    Works for :class:`~mmengine.runner.EpochBasedTrainLoop` and :class:`~mmengine.runner.IterBasedTrainLoop`, any
    number of workers, persistent or not. With several processes it needs ``kd_mm.CheckpointHook``, which lets every
    rank hand in its state.

    Not covered, and said in the log where it can be seen: iterable data sets, loaders without batches or with
    ``in_order=False``, samplers that draw from the global random state as they go or keep one of their own from epoch
    to epoch, transforms with a cache or a generator of their own, another number of processes or workers.
    """

    # Last of all, so that what other hooks draw before training does not shift the restored states.
    priority = "LOWEST"

    def __init__(self) -> None:
        self._place: Place | None = None
        self._val_place: Place | None = None
        self._loaded: dict[str, Any] | None = None
        self._gathered: list[dict[str, Any]] | None = None
        self._validated = False

    def before_run(self, runner: Runner) -> None:
        """Follow the training loader, before anything reads from it."""
        if not isinstance(runner._train_loop, BaseLoop):
            return
        loader = runner._train_loop.dataloader
        try:
            self._place = follow(loader)
            reasons = [f"{name} keeps earlier images, which no checkpoint holds" for name in cached_transforms(loader)]
        except ValueError as error:
            reasons = [f"the training loader cannot be followed, as {error}"]
        if isinstance(runner._val_loop, BaseLoop):
            # An unusual validation loader costs no more than its own random numbers.
            with suppress(ValueError):
                self._val_place = follow(runner._val_loop.dataloader)
        for reason in reasons:
            runner.logger.warning(f"A resumed run will differ from an uninterrupted one: {reason}.")

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take out what :meth:`before_save_checkpoint` put in."""
        # The engine loads onto the GPU, where forked data workers could not read their states.
        self._loaded = _on_cpu(checkpoint.pop(_KEY, None))

    def before_train(self, runner: Runner) -> None:
        """Bring back the stored state, if this run was resumed."""
        loaded, self._loaded = self._loaded, None
        if runner.iter == 0:
            return
        if loaded is None:
            runner.logger.warning(
                "The checkpoint was saved without kd_mm.ExactResumeHook (or without the optimizer): the run goes on "
                "from the epoch's beginning with new random numbers, and will differ from an uninterrupted one."
            )
            return
        if loaded["world_size"] != get_world_size():
            runner.logger.warning(
                f"The checkpoint was saved by {loaded['world_size']} processes and is resumed by {get_world_size()}: "
                "the run goes on from the epoch's beginning, and will differ from an uninterrupted one."
            )
            return
        self._restore(runner, loaded)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Forget the last validation."""
        self._validated = False

    def before_val(self, runner: Runner) -> None:
        """Note that a checkpoint saved from here on comes after the validation that was due."""
        self._validated = True

    def after_train_epoch(self, runner: Runner) -> None:
        """End the epoch that was resumed in its middle: the next one counts its batches from zero again."""
        vars(runner.train_loop).pop("run_iter", None)

    def collect_checkpoint_state(self, runner: Runner) -> None:
        """Gather every rank's state on all ranks; called on all of them by ``kd_mm.CheckpointHook`` before it saves."""
        self._gathered = all_gather_object(self._rank_state(runner))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the state to a checkpoint that can be resumed from (one that holds the optimizer)."""
        if "optimizer" not in checkpoint:
            return
        ranks, self._gathered = self._gathered, None
        if ranks is None and get_world_size() > 1:
            runner.logger.warning(
                "This checkpoint cannot be resumed exactly: with several processes kd_mm.ExactResumeHook needs "
                "default_hooks = dict(checkpoint=dict(type='kd_mm.CheckpointHook'))."
            )
            return
        ranks = ranks or [self._rank_state(runner)]
        for other in ranks[1:]:
            other["buffers"] = {
                name: value for name, value in other["buffers"].items() if not value.equal(ranks[0]["buffers"][name])
            }
        ranks[0]["buffers"] = {}
        checkpoint[_KEY] = {
            "world_size": get_world_size(),
            "validated": self._validated,
            "ranks": ranks,
            "counts": {name: wrapper.inner_count for name, wrapper in _wrappers(runner).items()},
            "hooks": hook_states(runner.hooks),
            "modules": module_attributes(_unwrapped(runner)),
        }

    def _rank_state(self, runner: Runner) -> dict[str, Any]:
        model = _unwrapped(runner)
        state: dict[str, Any] = {"random": pack(capture_random_state()), "buffers": {}}
        if get_world_size() > 1:
            state["buffers"] = {name: value.detach().cpu() for name, value in _buffers(model).items()}
        if self._place is not None:
            state["place"] = self._place.state_dict(runner.train_loop.dataloader)
            # IterBasedTrainLoop counts the passes over a finite loader in its iterator.
            iterator = getattr(runner.train_loop, "dataloader_iterator", None)
            state["place"]["passes"] = getattr(iterator, "_epoch", 0)
        if self._val_place is not None:
            state["val_place"] = self._val_place.state_dict(runner.val_loop.dataloader)
        if not all(wrapper.should_update() for wrapper in _wrappers(runner).values()):
            parameters = model.named_parameters()
            state["grads"] = {name: p.grad.detach().cpu().clone() for name, p in parameters if p.grad is not None}
        return state

    def _restore(self, runner: Runner, loaded: dict[str, Any]) -> None:
        rank = loaded["ranks"][get_rank()]
        model = _unwrapped(runner)
        _restore_tensors(model, rank)
        for name, wrapper in _wrappers(runner).items():
            wrapper._inner_count = loaded["counts"].get(name, wrapper.inner_count)
        restore_hook_states(runner.hooks, loaded["hooks"])
        restore_module_attributes(model, loaded["modules"])
        restore_random_state(rank["random"])
        if self._val_place is not None and "val_place" in rank:
            self._val_place.load_state_dict(runner.val_loop.dataloader, rank["val_place"], rank["random"])
        place = rank.get("place")
        if place is not None and not loaded["validated"] and not (_by_epoch(runner) and place["consumed"]):
            _validate_if_due(runner)
        if place is not None:
            self._resume_place(runner, place)

    def _resume_place(self, runner: Runner, place: dict[str, Any]) -> None:
        loop = runner.train_loop
        if self._place is None or not isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
            runner.logger.warning(
                f"The place within the epoch cannot be resumed in {type(loop).__name__}: use EpochBasedTrainLoop or "
                "IterBasedTrainLoop for a run that equals an uninterrupted one."
            )
            return
        if place["num_workers"] != loop.dataloader.num_workers:
            runner.logger.warning(
                f"The checkpoint was saved with num_workers={place['num_workers']} and is resumed with "
                f"{loop.dataloader.num_workers}: the augmentations will differ from those of an uninterrupted run."
            )
        done = place["consumed"]
        self._place.load_state_dict(loop.dataloader, place, capture_random_state())
        if isinstance(loop, IterBasedTrainLoop):
            # The loader skips by itself.
            loop.dataloader_iterator.skip_iter = lambda num_iters: None
            loop.dataloader_iterator._epoch = place["passes"]
        elif done:
            run_iter = loop.run_iter
            loop.run_iter = lambda idx, data_batch: run_iter(idx + done, data_batch)
        if done:
            runner.logger.info(f"Going on after batch {done} of the current pass over the training data.")


def _on_cpu(value: Any) -> Any:
    """Return nested dicts, lists and tuples with their tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    return type(value)(map(_on_cpu, value)) if type(value) in (list, tuple) else value


def _unwrapped(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _wrappers(runner: Runner) -> dict[str, OptimWrapper]:
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        return dict(wrapper.items())
    return {"": wrapper} if isinstance(wrapper, OptimWrapper) else {}


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return buffers by name, those of teachers that follow the student included: each process has its own."""
    found = dict(model.named_buffers())
    for name, teacher in getattr(model, "teachers", {}).items():
        for part, module in (("model", teacher.model), ("exits", teacher.exits)) if teacher.is_ema else ():
            found.update({f"distill.teachers.{name}.{part}.{key}": value for key, value in module.named_buffers()})
    return found


def _by_epoch(runner: Runner) -> bool:
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


def _validate_if_due(runner: Runner) -> None:
    """Do the validation that the train loop does right after the step at which the checkpoint was saved."""
    loop = runner.train_loop
    if runner.val_loop is None or not isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
        return
    loop._decide_current_val_interval()
    now, last = (loop.epoch, loop.max_epochs) if _by_epoch(runner) else (loop.iter, loop.max_iters)
    if now >= loop.val_begin and (now % loop.val_interval == 0 or now == last):
        runner.logger.info("The checkpoint was saved before the validation that was due: validating now.")
        runner.val_loop.run()


def _restore_tensors(model: nn.Module, rank: dict[str, Any]) -> None:
    buffers = _buffers(model)
    for name, value in rank["buffers"].items():
        buffers[name].copy_(value)
    grads: dict[str, Tensor] = rank.get("grads", {})
    for name, parameter in model.named_parameters():
        if name in grads:
            parameter.grad = grads[name].to(parameter.device)
