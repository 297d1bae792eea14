"""Updates teachers that are a moving average of the student, and stores them in checkpoints."""

from typing import Any, cast

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

from kd_mm.distillers import Distiller, EMATeacher, find_distiller
from kd_mm.registry import HOOKS


@HOOKS.register_module()
class EMATeacherHook(Hook):
    """Updates each :class:`kd_mm.distillers.EMATeacher` after each step of the optimizer.

    Iterations that only accumulate gradients do not update it, nor does a step that the loss scaler of mixed precision
    skips. Checkpoints hold it under ``distill.teachers.<name>.``. A resumed run continues from there; any other starts
    with the student's weights, once these have been loaded.
    """

    # Before EMAHook takes a checkpoint's keys for those of the model, before checkpoints are written.
    priority = "ABOVE_NORMAL"

    def __init__(self) -> None:
        self._stepped = False

    def before_train(self, runner: Runner) -> None:
        """Be notified of the optimizer's steps."""
        if ema_teachers(find_distiller(runner)):
            wrapper = runner.optim_wrapper
            for each in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
                each.optimizer.register_step_post_hook(self._after_step)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Start the teachers that were not resumed, now that every hook has loaded or swapped weights."""
        distiller = find_distiller(runner)
        for teacher in ema_teachers(distiller).values():
            if not teacher.started:
                teacher.start(distiller.student, distiller.objective.exits)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Update the teachers, if the optimizer has stepped."""
        if self._stepped:
            self._stepped = False
            distiller = find_distiller(runner)
            for teacher in ema_teachers(distiller).values():
                teacher.update(distiller.student, distiller.objective.exits)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        for teacher in ema_teachers(find_distiller(runner)).values():
            checkpoint["state_dict"].update(teacher.stored())

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Remove the teachers from the checkpoint, and load them if the run is resumed."""
        for name, teacher in ema_teachers(find_distiller(runner)).items():
            if not runner.cfg.get("resume"):
                teacher.pop_stored(checkpoint["state_dict"])
            elif not teacher.resume(checkpoint["state_dict"], "the checkpoint"):
                runner.logger.warning(
                    f"the checkpoint does not hold the teacher {name!r}, a moving average of the student: it starts "
                    "from the student's weights"
                )

    def _after_step(self, *_: Any) -> None:
        self._stepped = True


def ema_teachers(distiller: Distiller) -> dict[str, EMATeacher]:
    """Return the teachers that are a moving average of the student, by name."""
    return {name: cast(EMATeacher, teacher) for name, teacher in distiller.teachers.items() if teacher.is_ema}
