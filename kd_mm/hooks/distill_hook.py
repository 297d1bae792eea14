"""Runs a distillation's checks, schedules and log around its iterations."""

from collections.abc import Sized
from itertools import zip_longest
from typing import Any

import torch
from mmengine.hooks import Hook, LoggerHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner

from kd_mm.distillers import Distiller, find_distiller
from kd_mm.distillers.joint_exits import describe_exits
from kd_mm.distillers.loss_monitor import LossMonitor
from kd_mm.hooks.report import distillation_report
from kd_mm.losses import Progress
from kd_mm.registry import HOOKS
from kd_mm.utils.config import normalizing_steps
from kd_mm.utils.suggest import join_first


@HOOKS.register_module()
class DistillHook(Hook):
    """Connects a Distiller to its run.

    Before training it compares the class lists of data and teachers and logs one table. Before each step it sets the
    progress that schedules read, and whether the step is logged: loss terms are read from the device once per logging
    interval. No checkpoint is written after a loss that was not finite, and a resume with another teacher is refused.
    """

    priority = "ABOVE_NORMAL"

    def __init__(self) -> None:
        self._interval, self._ignore_last = 10, True
        self._logged_terms: set[str] = set()
        self._eager = False

    def before_run(self, runner: Runner) -> None:
        """Give the losses the number of training samples, before an EMA copy is made or a checkpoint loaded."""
        is_training = isinstance(runner.optim_wrapper, OptimWrapper | OptimWrapperDict)  # else it is no wrapper yet
        count = count_samples(runner.train_dataloader.dataset) if is_training else None
        if count is not None:
            for loss in find_distiller(runner).losses.values():
                loss.expect_samples(count)

    def before_train(self, runner: Runner) -> None:
        """Check taps and classes, start the monitor, log the report."""
        distiller = find_distiller(runner)
        replaced = distiller.recorder.attach(distiller.student)
        if replaced:
            runner.logger.info(f"taps attached to replaced modules: {', '.join(replaced)}")
        check_data_of_teachers(distiller, runner)
        for hook in runner.hooks:
            if isinstance(hook, LoggerHook):
                self._interval, self._ignore_last = hook.interval, hook.ignore_last
        distiller.monitor = LossMonitor()
        distiller.check_next_step = True
        distiller.objective.balance.start(resumed=runner.iter > 0)
        distiller.compilation.check_machine()
        if distiller.compilation.active or runner.cfg.get("compile"):
            # The check of the first step takes gradients more than once, which compiled functions do not allow.
            if not hasattr(torch.compiler, "set_stance"):
                raise ValueError(f"compile needs torch 2.6 or newer, and this is {torch.__version__}: leave it out")
            if distiller.recipe.balance:
                raise ValueError("recipe: balance takes gradients in several steps, which no compiled step allows")
            torch.compiler.set_stance("force_eager")
            self._eager = True
        runner.logger.info("\n" + distillation_report(distiller))
        networks = [distiller.student, *(teacher.model for teacher in distiller.teachers.values())]
        own, *others = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
        if own > max(others, default=own):
            runner.logger.warning(
                f"the student has {own:,} parameters, its teacher {max(others):,}: are the two swapped?"
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the progress of the run and whether this step will be logged."""
        distiller = find_distiller(runner)
        if distiller.compilation.step:
            torch.compiler.cudagraph_mark_step_begin()  # what the graphs of the last step gave may be overwritten
        distiller.progress = Progress(runner.epoch, runner.iter, runner.max_epochs, runner.max_iters)
        assert distiller.monitor is not None
        distiller.monitor.iteration = runner.iter
        # The same rule as LoggerHook's.
        length = len(runner.train_dataloader)
        at_end = batch_idx + 1 == length and (not self._ignore_last or length <= self._interval)
        distiller.monitor.report = self.every_n_inner_iters(batch_idx, self._interval) or at_end

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Have new terms logged without smoothing: each is a mean over its interval already."""
        if self._eager:
            torch.compiler.set_stance("default")
            self._eager = find_distiller(runner).objective.balance.measuring = False
        new = [name for name in outputs or () if name not in self._logged_terms]
        self._logged_terms.update(new)
        runner.log_processor.custom_cfg.extend({"data_src": name, "method_name": "current"} for name in new)

    def after_train_epoch(self, runner: Runner) -> None:
        """Stop, before anything is saved or evaluated, if a loss was not finite."""
        monitor = find_distiller(runner).monitor
        if monitor is not None:
            monitor.check()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Stop if a loss was not finite; add the teachers' identity and what the exits are."""
        distiller = find_distiller(runner)
        if distiller.monitor is not None:
            distiller.monitor.check()
        checkpoint["meta"]["teachers"] = {name: teacher.identity for name, teacher in distiller.teachers.items()}
        objective, exits = distiller.objective, list(distiller.objective.exits)
        checkpoint["meta"]["exits"] = describe_exits(distiller.recipe.exits, objective.exit_stages, exits)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare the teachers with those of the run that is resumed.

        Raises:
            ValueError: A resumed run has another teacher than the run it continues.
        """
        before = checkpoint.get("meta", {}).get("teachers") if runner.cfg.get("resume") else None
        if before is None:
            return
        now = {name: teacher.identity for name, teacher in find_distiller(runner).teachers.items()}
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if changed:
            raise ValueError(
                f"resume: teacher {changed[0]!r} differs from the one this run began with (other weights or another "
                "config); give the same teacher, or start a new run in another work dir"
            )


def check_data_of_teachers(distiller: Distiller, runner: Runner) -> None:
    """Compare the training data with those of the teachers: steps that normalise, and the class lists of the networks
    whose logits are compared.

    Raises:
        ValueError: Other steps, another number of classes, other classes, or another order.
    """
    own = normalizing_steps(runner.cfg)
    for name, teacher in distiller.teachers.items():
        steps = teacher.normalizing_steps
        if steps is not None and steps != own:
            there, here = (join_first(each or []) or "not at all" for each in (steps, own))
            raise ValueError(
                f"teacher {name!r}: the pipeline of its config normalises otherwise ({there}) than that of the "
                f"training data ({here}): give mean, std and to_rgb to the data_preprocessor of both configs, and take "
                "Normalize out of their pipelines"
            )
    if distiller.task.class_agnostic:
        return
    dataset = runner.train_dataloader.dataset
    classes = (getattr(dataset, "metainfo", None) or {}).get("classes")
    count = distiller.class_counts.get("student")
    if classes and count is not None and len(classes) != count:
        raise ValueError(
            f"the training data set has {len(classes)} classes, the student has {count}: set "
            f"model.student.{distiller.task.classes_key}"
        )
    for name, teacher in distiller.teachers.items():
        trained = teacher.dataset_meta.get("classes")
        if not classes or not trained or list(trained) == list(classes) or name not in distiller.class_counts:
            continue
        differences = ((i, *pair) for i, pair in enumerate(zip_longest(trained, classes)) if pair[0] != pair[1])
        number, expected, found = next(differences)
        if sorted(trained) == sorted(classes):
            problem = "lists its classes in another order"
            remedy = "give the data set the teacher's order (metainfo=dict(classes=...))"
        else:
            problem = f"was trained on other classes ({len(trained)}, the data set has {len(classes)})"
            remedy = "take a teacher of the same classes"
        raise ValueError(
            f"teacher {name!r} {problem}: class {number} is {expected!r} for the teacher, {found!r} in the data set; "
            f"{remedy}, or use only {distiller.task.free_losses}"
        )


def count_samples(dataset: Any) -> int | None:
    """Return the number of different samples of a data set, ``None`` where it is not known."""
    # Wrappers that repeat, balance or split hand out the indices of what they wrap; joined data sets hand out the same
    # ones several times.
    while hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return None if hasattr(dataset, "datasets") or not isinstance(dataset, Sized) else len(dataset)
