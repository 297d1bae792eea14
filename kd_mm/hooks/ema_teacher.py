"""Moves teachers that follow the student, and keeps them in checkpoints."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch.optim import Optimizer

from kd_mm.distillers import Distiller, EMATeacher, find_distiller
from kd_mm.registry import HOOKS


@HOOKS.register_module()
class EMATeacherHook(Hook):
    """Moves each :class:`kd_mm.distillers.EMATeacher` after each step of the optimizer; without one it does nothing.

    Iterations that only accumulate gradients do not move it, nor does a step that the loss scaler of mixed precision
    skips. Checkpoints hold it under ``distill.teachers.<name>.``, beside the student's own names, whether or not
    mmengine's ``EMAHook`` swaps these for an average of its own. A resumed run goes on from there; any other starts
    with the student's weights, once these have been loaded.
    """

    # Before EMAHook takes a checkpoint's keys for those of the model, before checkpoints are written.
    priority = "ABOVE_NORMAL"

    def __init__(self) -> None:
        self._stepped = False

    def before_train(self, runner: Runner) -> None:
        """Listen to the optimizer."""
        if not following(find_distiller(runner)):
            return
        wrapper = runner.optim_wrapper
        wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        for one in wrappers:
            optimizer: Optimizer = one.optimizer
            optimizer.register_step_post_hook(self._note)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Start the teachers that were not resumed: only now has every hook loaded or swapped what it will."""
        distiller = find_distiller(runner)
        for teacher in following(distiller).values():
            if not teacher.started:
                teacher.start(distiller.student, distiller.objective.exits)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Move the teachers, if the optimizer has stepped."""
        if self._stepped:
            self._stepped = False
            distiller = find_distiller(runner)
            for teacher in following(distiller).values():
                teacher.update(distiller.student, distiller.objective.exits)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the teachers to the checkpoint."""
        for teacher in following(find_distiller(runner)).values():
            checkpoint["state_dict"].update(teacher.stored())

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take the teachers out of the checkpoint, and have them go on from there if the run is resumed."""
        for name, teacher in following(find_distiller(runner)).items():
            if not runner._resume:
                teacher.taken(checkpoint["state_dict"])
            elif not teacher.resume(checkpoint["state_dict"], "the checkpoint"):
                runner.logger.warning(
                    f"the checkpoint does not hold the teacher {name!r}, which follows the student: it starts anew "
                    "from the student's weights"
                )

    def _note(self, *_: Any) -> None:
        self._stepped = True


def following(distiller: Distiller) -> dict[str, EMATeacher]:
    """Return the teachers that follow the student, by name."""
    return {name: teacher for name, teacher in distiller.teachers.items() if isinstance(teacher, EMATeacher)}
