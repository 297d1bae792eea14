"""Compare a resumed run with its config: network, optimizer, schedules, images a step."""

import copy
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper, ReduceOnPlateauParamScheduler
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from kd_mm.distillers import Distiller
from kd_mm.hooks.run_checks import images_of_step
from kd_mm.preparation.data import SPEED_OPTIONS
from kd_mm.utils.checkpoint import OWN_PREFIX, mismatch
from kd_mm.utils.config import parts_of
from kd_mm.utils.contexts import unwrapped
from kd_mm.utils.suggest import join_first

_KEY = "images_of_step"
_PARTS = "config_values"
_EVALUATION = "evaluation_values"
#: What training depends on in a config, beside the optimizer's options and the schedules, and what its scores do.
_TRAINED = ("model", "data_preprocessor", "optim_wrapper", "custom_hooks", "train_dataloader")
_EVALUATED = ("val_dataloader", "val_evaluator", "default_hooks.checkpoint.save_best")
#: What in the state of a schedule is no option.
_PROGRESS = ("last_step", "base_values", "verbose", "best", "num_bad_epochs", "cooldown_counter")


class ResumeCheckHook(Hook):
    """Compares a resumed run with its config, warns of what differs, and follows the config.

    The engine restores options of the optimizer and schedules as they are stored, whatever the config says by now.
    Where the initial value of an option or the schedule is another one, the schedule is computed anew from the first
    step on, as if the run had been planned so. A run with the config that it began with is not touched. Schedules that
    depend on metrics keep what they have reached. Another
    model, recipe, wrapper of the optimizer or training set is followed in any case; the losses of the run so far are
    left out of the means in the log then.
    """

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self._reasons: list[str] = []
        self._replayed = False

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Store how many images a step has, and what the config says of model, data and step."""
        values = {_PARTS: _config_parts(runner.cfg), _EVALUATION: _config_parts(runner.cfg, _EVALUATED)}
        checkpoint["meta"].update({_KEY: images_of_step(runner), **values})

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare, and give the optimizer's options in the checkpoint the config's values, before they are restored.

        Raises:
            ValueError: The file holds no state of a run; the network is another; or the optimizer is of another type
                or has other groups of parameters.
        """
        if not runner.cfg.get("resume") or not isinstance(runner.optim_wrapper, OptimWrapper):
            return
        meta = checkpoint.get("meta") or {}
        if not ({"epoch", "iter"} <= meta.keys() and "message_hub" in checkpoint):
            raise ValueError("resume: the file holds weights and no state of a run: start from it by load_from=PATH")
        _check_network(unwrapped(runner), checkpoint["state_dict"])
        before, now = meta.get(_KEY), images_of_step(runner)
        if before not in (None, now):
            runner.logger.warning(f"resume: a step had {before} images, and has {now} now")
        self._reasons = _changed_parts(meta.get(_PARTS), _config_parts(runner.cfg))
        other = _changed_parts(meta.get(_EVALUATION), _config_parts(runner.cfg, _EVALUATED))
        if other:
            self._reasons.append(f"{'; '.join(other)} (the best score so far does not count)")
        _keep_best(checkpoint["message_hub"], runner, not other)
        if self._reasons:
            _forget_means(checkpoint["message_hub"])
        if (checkpoint.get("optimizer") or {}).get("param_groups"):
            self._compare_optimizer(runner, checkpoint)

    def _compare_optimizer(self, runner: Runner, checkpoint: Mapping[str, Any]) -> None:
        optimizer, schedules = checkpoint["optimizer"], runner.param_schedulers or []
        _check_groups(optimizer["param_groups"], runner.optim_wrapper.optimizer.param_groups, self._reasons)
        if "ema_state_dict" in checkpoint and not any(isinstance(hook, EMAHook) for hook in runner.hooks):
            self._reasons.insert(0, "without EMAHook the run goes on from the averaged weights, not from the trained")
        if isinstance(schedules, Mapping):
            return
        # Beside several groups the engine has one of its own.
        stored = [*optimizer["param_groups"], *filter(None, [optimizer.get("base_param_settings")])]
        changed = _changed_options(stored, runner.optim_wrapper.param_groups)
        changed += _changed_schedules(checkpoint.get("param_schedulers") or [], schedules)
        self._reasons += changed
        by_score = any(isinstance(each, ReduceOnPlateauParamScheduler) for each in schedules)
        self._replayed = bool(changed) and not by_score

    def before_train(self, runner: Runner) -> None:
        """Compute the schedules anew where something differs, and warn where nothing is left to train."""
        loop = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        unit, done, last = ("epochs", loop.epoch, loop.max_epochs) if by_epoch else ("iters", loop.iter, loop.max_iters)
        if 0 < last <= done:
            runner.logger.warning(
                f"resume: the checkpoint has {done} {unit}, train_cfg.max_{unit} is {last}: nothing is left to train"
            )
        reasons, self._reasons = self._reasons, []
        if not reasons:
            return
        if self._replayed:
            _replay(runner)
        rates = ", ".join(f"{rate:.3g}" for rate in sorted(set(runner.optim_wrapper.get_lr()["lr"]))[:3])
        runner.logger.warning(
            f"resume: the config differs from the run so far: {'; '.join(reasons)}. The config is followed, the "
            f"learning rate is {rates} now"
        )


def _check_network(model: nn.Module, stored: Mapping[str, Any]) -> None:
    """Stop where a checkpoint is of another network, or of a distillation and the config is not."""
    own = {name: value for name, value in model.state_dict().items() if not name.startswith(OWN_PREFIX)}
    remedy = "take the config that wrote it, or start from the weights alone (load_from)"
    if problem := mismatch(own, stored, extra=False):
        raise ValueError(f"resume: the checkpoint is of another network: {problem}; {remedy}")
    if not isinstance(model, Distiller) and any(name.startswith(OWN_PREFIX) for name in stored):
        raise ValueError(f"resume: the checkpoint is of a distillation, the config of the network alone: {remedy}")


def _forget_means(message_hub: Mapping[str, Any]) -> None:
    """Leave the losses of the run so far out of the means in the log."""
    for kept in ("log_scalars", "resumed_keys"):
        logged = message_hub.get(kept, {})
        for name in [name for name in logged if name.startswith("train/")]:
            logged.pop(name)


def _config_parts(config: Mapping[str, Any], keys: Sequence[str] = _TRAINED) -> dict[str, str]:
    """Return the values below some keys of a config, without options of speed and those of the optimizer itself."""
    left = tuple(f"{part}_dataloader.{option}" for part in ("train", "val") for option in SPEED_OPTIONS)
    return {
        key: str(value)
        for key, value in parts_of({name: config.get(name) for name in {key.split(".")[0] for key in keys}})
        if key.startswith(tuple(keys)) and isinstance(value, str | float | int | None)
        if not key.startswith(("optim_wrapper.optimizer.", *left))
    }


def _keep_best(message_hub: dict[str, Any], runner: Runner, counts: bool) -> None:
    """Let the best checkpoint so far be the one in this run's own folder; one of another folder would be removed."""
    if any(vars(hook).get("out_dir") not in (None, runner.work_dir) for hook in runner.hooks):
        return  # a folder of the user's
    info = message_hub.get("runtime_info", {})
    for key in [key for key in info if key.startswith("best_")]:
        own = Path(runner.work_dir, Path(str(info[key])).name)
        if not counts or (key.startswith("best_ckpt") and not own.is_file()):
            for kept in (info, message_hub.get("resumed_keys", {})):
                kept.pop(key, None)
        elif key.startswith("best_ckpt"):
            info[key] = str(own)


def _changed_parts(stored: Mapping[str, str] | None, now: Mapping[str, str]) -> list[str]:
    if stored is None:
        return []
    keys = [key for key in {**stored, **now} if stored.get(key) != now.get(key) and not key.endswith("._scope_")]
    lines = [f"{key} was {stored.get(key, 'missing')}, is {now.get(key, 'missing')}" for key in keys[:3]]
    return lines + ([f"{len(keys) - 3} more keys"] if len(keys) > 3 else [])


def _check_groups(
    stored: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, Any]], reasons: Sequence[str]
) -> None:
    """Stop at groups of parameters or options that are other ones; ``reasons`` say what differs in the config."""
    sizes = [[len(group["params"]) for group in each] for each in (stored, groups)]
    if sizes[0] != sizes[1]:
        differs = f"what differs ({join_first(reasons)})" if reasons else "paramwise_cfg and frozen parts"
        raise ValueError(
            f"resume: the checkpoint's optimizer has {len(stored)} groups with {sum(sizes[0])} parameters, the "
            f"config's {len(groups)} with {sum(sizes[1])}: give {differs} as they were, or start from the "
            "weights alone (load_from)"
        )
    before, now = ({name for name in each[0] if not name.startswith("initial_")} for each in (stored, groups))
    if before - now and now - before:  # one alone may be due to another version of torch
        raise ValueError(
            f"resume: the checkpoint's optimizer has the options {', '.join(sorted(before - now))}, the config's "
            f"{', '.join(sorted(now - before))}: give optim_wrapper.optimizer.type as it was, or start from the "
            "weights alone (load_from)"
        )


def _changed_options(stored: Sequence[dict[str, Any]], groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Give stored options the config's values, initial ones where a schedule changes them; return what differed."""
    lines: dict[str, str] = {}
    for before, now in zip(stored, groups, strict=False):
        for option in [option for option in now if option != "params" and not option.startswith("initial_")]:
            key = f"initial_{option}" if f"initial_{option}" in before else option
            old, new = before.get(key), now.get(f"initial_{option}", now[option])
            if old is not None and old != new:
                before[key] = new
                if key != option and isinstance(old, float | int) and old:  # what a schedule has made of it
                    before[option] *= new / old
                old, new = (f"{value:.6g}" if isinstance(value, float) else value for value in (old, new))
                lines.setdefault(option, f"optimizer {option} was {old}, is {new}")
    return list(lines.values())


def _changed_schedules(stored: Sequence[dict[str, Any]], schedules: Sequence[Any]) -> list[str]:
    """Give stored schedules the config's options; return what differed."""
    if len(stored) != len(schedules):
        return [f"there were {len(stored)} schedules, now {len(schedules)}"]
    lines = []
    for before, schedule in zip(stored, schedules, strict=True):
        now, name = schedule.state_dict(), type(schedule).__name__
        for option in before.keys() - now.keys():  # of another schedule
            del before[option]
        for option in [key for key in now if not key.startswith("_") and key not in _PROGRESS]:
            if before.get(option) != now[option] and before.get("factor") == now.get("factor") == 1:
                before[option] = now[option]  # of a rate that stays as it is
            if before.get(option) != now[option]:
                values = [before.get(option, "missing"), now[option]]
                old, new = (sorted(each.elements()) if isinstance(each, Counter) else each for each in values)
                lines.append(f"{name} {option} was {old}, is {new}")
                before[option] = now[option]
    return lines


def _replay(runner: Runner) -> None:
    """Build the schedules of the config anew and step them to where the run stands, as its training has."""
    for group in runner.optim_wrapper.param_groups:
        initial = {key.removeprefix("initial_"): value for key, value in group.items() if key.startswith("initial_")}
        group.update(initial)
    if not runner.param_schedulers:
        return
    runner.param_schedulers = runner.build_param_scheduler(copy.deepcopy(runner.cfg.param_scheduler))
    length = runner.iter // runner.epoch if runner.epoch else 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the engine expects a step of the optimizer between them
        for iteration in range(1, runner.iter + 1):
            ends_epoch = length > 0 and iteration % length == 0 and iteration // length <= runner.epoch
            for schedule in runner.param_schedulers:
                if not schedule.by_epoch or ends_epoch:
                    schedule.step()
