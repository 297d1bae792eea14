"""Schedules and switches that a run or its data do not fit, and rules that take the worst score for the best."""

import re
from collections.abc import Mapping
from typing import Any

from mmdet.datasets import MultiImageMixDataset
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from kd_mm.distillers import Distiller
from kd_mm.stages.tap import child
from kd_mm.utils.config import as_list
from kd_mm.utils.contexts import unwrapped
from kd_mm.utils.samples import without_slice

#: What is in the names of metrics of which more is better, and of those of which less is.
_BETTER = {
    "greater": re.compile("acc|top|auc|map|precision|recall|f1|rank", re.I),
    "less": re.compile("loss|err", re.I),
}


def check_schedules(runner: Runner) -> None:
    """Compare the schedules, the begin of validation and the learning rate with the length of the run.

    The log warns of what never comes, of a cosine that rises again, of a learning rate of 0, if nothing is saved, and
    of a ``rule`` that takes the worst score for the best.

    Raises:
        ValueError: A schedule would fail during the run: it is planned for fewer steps, or divides by 0. The same of a
            hook that switches the pipeline.
    """
    loop, lines = runner.train_loop, []
    if isinstance(runner.param_schedulers, Mapping) or not isinstance(loop, EpochBasedTrainLoop | IterBasedTrainLoop):
        return  # several optimizers, or a loop of the user's own
    lengths = {True: (runner.max_epochs, "epochs"), False: (runner.max_iters, "iterations")}
    length, unit = lengths[isinstance(loop, EpochBasedTrainLoop)]
    if runner.val_loop is not None and loop.val_begin > length:
        lines.append(f"train_cfg.val_begin={loop.val_begin} is never reached, the run has {length} {unit}")
    schedules: list[Any] = runner.param_schedulers or []
    counted = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook) and hook.interval > 0]
    for part in [*counted, *schedules] if isinstance(loop, IterBasedTrainLoop) else ():
        if part.by_epoch and "monitor" not in vars(part) and vars(part).get("factor") != 1:  # of a constant rate
            lines.append(f"{type(part).__name__} counts epochs, and a run by iterations is one: set by_epoch=False")
    for schedule in schedules:
        length, unit = lengths[schedule.by_epoch]
        problem = _wrong_schedule(schedule, vars(schedule), length)
        if problem:
            lines.append(f"param_scheduler: {type(schedule).__name__} {problem}, the run has {length} {unit}")
    counts = (runner.cfg.get("optim_wrapper") or {}).get("accumulative_counts") or 1
    if counts > runner.max_iters:
        lines.append(f"optim_wrapper.accumulative_counts={counts}: the run has {runner.max_iters} iterations, one step")
    if not any(group.get("initial_lr", group["lr"]) for group in runner.optim_wrapper.param_groups):
        lines.append("optim_wrapper.optimizer.lr is 0: nothing is learned")
    if any(group.get("momentum", 0) >= 1 for group in runner.optim_wrapper.param_groups):
        lines.append("optim_wrapper.optimizer.momentum is 1 or more: weights will grow without end")
    for hook in runner.hooks:
        lines += _late_switches(hook, runner)
        if isinstance(hook, CheckpointHook) and not (hook.save_last or hook.save_best):
            length, unit = lengths[hook.by_epoch]
            if not 0 < hook.interval <= length:
                lines.append(f"CheckpointHook: interval={hook.interval} saves nothing, the run has {length} {unit}")
    for part in [*runner.hooks, *schedules]:
        given = vars(part)
        names = as_list(given.get("save_best") or given.get("monitor"))
        for name, rule in zip(names, given.get("rules") or [given.get("rule")] * len(names), strict=False):
            fitting = [each for each, words in _BETTER.items() if words.search(str(name))]
            if rule and len(fitting) == 1 and rule != fitting[0]:
                lines.append(f"{type(part).__name__}: rule={rule!r} is wrong for {name!r}: set rule={fitting[0]!r}")
    for line in lines:
        runner.logger.warning(line)


def _late_switches(hook: Hook, runner: Runner) -> list[str]:
    """Return one line for each epoch at which a hook of upstream would switch the pipeline, and that never comes.

    Raises:
        ValueError: It would fail at that epoch, or switch a pipeline that nothing reads.
    """
    name, data, epochs = type(hook).__name__, runner.train_dataloader.dataset, runner.max_epochs
    model = unwrapped(runner)
    student = model.student if isinstance(model, Distiller) else model
    fits = isinstance(without_slice(data), MultiImageMixDataset) and child(student, "bbox_head") is not None
    if name == "YOLOXModeSwitchHook" and not fits:
        parts = "steps of a MultiImageMixDataset and an option of the network's bbox_head"
        raise ValueError(f"{name}: it switches {parts}: take the hook out")
    if name == "PipelineSwitchHook" and not callable(vars(data).get("pipeline")):
        kind = type(data).__name__
        raise ValueError(f"{name}: {kind} would not read the pipeline: leave the wrapper out, or num_batch_per_epoch")
    late = [f"switch_epoch={hook.switch_epoch}"] if name == "PipelineSwitchHook" and hook.switch_epoch >= epochs else []
    if name == "SwitchRecipeHook":
        late = [f"action_epoch={epoch}" for epoch in hook.schedule if epoch > epochs]
    return [f"{name}: {point} is never reached, the run has {epochs} epochs" for point in late]


def _wrong_schedule(schedule: Any, options: Mapping[str, Any], length: int) -> str:
    """Return what of a schedule never comes or comes too early in a run, empty if nothing.

    Raises:
        ValueError: It would fail during the run.
    """
    begin, last, kind = schedule.begin, min(schedule.end, length), type(schedule).__name__
    points = [("end", schedule.end)]
    points += [(name, begin + options[name]) for name in ("T_max", "total_steps", "step_size") if name in options]
    points += [("milestones", begin + milestone) for milestone in options.get("milestones", ())]
    planned = dict(points)
    if planned.get("total_steps", last) < last:
        raise ValueError(
            f"param_scheduler: {kind} fails during the run: total_steps={schedule.total_steps} are too few"
        )
    if options.get("start_factor") == 0:
        raise ValueError(f"param_scheduler: {kind} fails during the run: start_factor=0 is divided by")
    if planned.get("T_max", last) < last:
        return f"rises again after T_max={schedule.T_max}"
    if not 0 < options.get("gamma", 1) <= 1:
        return f"multiplies the rate by gamma={options['gamma']}, not above 0 and up to 1"
    if begin >= length:
        return f"never begins, with begin={begin}"
    late = [f"{name} {point:g}" for name, point in points if point > length or point % 1]
    return f"never comes to {', '.join(late)}" if late else ""
