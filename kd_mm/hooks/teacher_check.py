"""Scores the teachers on the first validation batches, so that an untrained or misread one is found at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from kd_mm.distillers import Distiller, Teacher, find_distiller
from kd_mm.hooks.distill_hook import check_data_of_teachers
from kd_mm.preparation.data import TrainingData
from kd_mm.registry import HOOKS
from kd_mm.tasks import TeacherScore
from kd_mm.utils.contexts import isolated_rng


@HOOKS.register_module()
class TeacherCheckHook(Hook):
    """Stops a run whose teacher scores near chance on the first validation images.

    Where the validation data have other classes (re-identification), the first training images are scored instead.

    Args:
        num_images: How many images are scored.
        min_score: Accuracy in [0, 1] (of a detector: share of the objects that it finds; of a multi-label classifier:
            area under the ROC curve) below which the run stops; by default three standard deviations of guessing above
            chance. With 0 the score is only logged.

    Raises:
        ValueError: ``min_score`` is no share.
    """

    priority = "HIGH"

    def __init__(self, num_images: int = 512, min_score: float | None = None) -> None:
        if min_score is not None and not 0 <= min_score <= 1:
            raise ValueError(f"teacher_check.min_score={min_score}: give a share from 0 to 1, such as 0.9 for 90%")
        self.num_images, self.min_score = num_images, min_score

    def before_train(self, runner: Runner) -> None:
        """Score every frozen teacher that has the student's classes; only warn where no loss reads its logits.

        Raises:
            ValueError: A teacher's score is below the minimum, or its class list is not that of the data.
        """
        distiller = find_distiller(runner)
        task = distiller.task
        check_data_of_teachers(distiller, runner)  # a clearer message than a low score
        split, key = ("validation", "val_dataloader") if task.closed_set else ("training", "train_dataloader")
        if runner.cfg.get(key) is None:
            runner.logger.info(f"no {split} data in the config: the teachers' scores are not checked")
            return
        for name, teacher in distiller.teachers.items():
            if teacher.is_ema:  # not better than the student, which is not trained yet
                continue
            # A teacher whose logits no loss reads may have other classes than the data set.
            classes = distiller.class_counts.get(name) or task.num_classes(teacher.model, None)
            if classes is not None and classes == distiller.class_counts.get("student"):
                with isolated_rng("teacher check"):
                    loader = TrainingData(runner, distiller).loader(key, shuffled=True)  # many sets are sorted by class
                    found = task.judge(self._score(distiller, teacher, loader), classes)
                read = name in distiller.class_counts or task.needs_trained_teacher
                self._check(runner, teacher, found, f"the first {found.scored} {split} {task.unit}", read)

    def _score(self, distiller: Distiller, teacher: Teacher, loader: Iterable[Any]) -> Tensor:
        statistics, images = torch.zeros((), dtype=torch.float64), 0
        for batch in loader:
            data = distiller.data_preprocessor(batch, False)
            statistics = statistics + teacher.score(data["inputs"], data["data_samples"])
            images += len(data["data_samples"])
            if images * get_world_size() >= self.num_images:
                break
        all_reduce(statistics)
        return statistics

    def _check(self, runner: Runner, teacher: Teacher, found: TeacherScore, unit: str, read: bool) -> None:
        teacher.score_text = f"{found.score:.1%} of {unit}"
        if found.score >= (found.minimum if self.min_score is None else self.min_score):
            return
        line = (
            f"teacher {teacher.name!r} scores {found.score:.1%} on {unit}, chance is {found.chance:.1%}: its "
            f"checkpoint ({teacher.checkpoint}), class order or input normalisation is wrong, or it was trained too "
            "briefly; "
        )
        if read or self.min_score is not None:
            raise ValueError(f"{line}to train all the same set default_hooks.teacher_check.min_score=0")
        runner.logger.warning(f"{line}the run goes on, since no loss reads its logits")
