"""Scores the teachers on the first validation batches, so that an untrained or misread one is found at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from kd_mm.distillers import Distiller, Teacher, find_distiller
from kd_mm.hooks.distill_hook import check_class_lists
from kd_mm.preparation.data import TrainingData
from kd_mm.registry import HOOKS
from kd_mm.utils.contexts import isolated_rng


@HOOKS.register_module()
class TeacherCheckHook(Hook):
    """Stops a run whose teacher scores near chance on the first validation images.

    Where the validation data have other classes (re-identification), the first training images are scored instead.

    Args:
        num_images: How many images are scored.
        min_score: Accuracy in [0, 1] (of a detector: share of the objects that it finds) below which the run stops; by
            default three standard deviations of guessing above chance. With 0 the score is only logged.
    """

    priority = "HIGH"

    def __init__(self, num_images: int = 512, min_score: float | None = None) -> None:
        self.num_images, self.min_score = num_images, min_score

    def before_train(self, runner: Runner) -> None:
        """Score every frozen teacher that has the student's classes.

        Raises:
            ValueError: A teacher's score is below the minimum, or its class list is not that of the data.
        """
        distiller = find_distiller(runner)
        task, num_classes = distiller.task, distiller.num_classes
        check_class_lists(distiller, runner)  # a clearer message than a low score
        split, key = ("validation", "val_dataloader") if task.closed_set else ("training", "train_dataloader")
        if runner.cfg.get(key) is None:
            runner.logger.info(f"no {split} data in the config: the teachers' scores are not checked")
            return
        for name, teacher in distiller.teachers.items():
            if teacher.is_ema:  # not better than the student, which is not trained yet
                continue
            # A teacher whose logits no loss reads may have other classes than the data set.
            classes = num_classes.get(name) or task.num_classes(teacher.model, None)
            if classes is not None and classes == num_classes.get("student", classes):
                with isolated_rng("teacher check"):
                    loader = TrainingData(runner, distiller).loader(key, shuffled=True)  # many sets are sorted by class
                    correct, count = self._score(distiller, teacher, loader)
                self._judge(teacher, correct, count, f"{split} {task.unit}", task.chance(classes))

    def _score(self, distiller: Distiller, teacher: Teacher, loader: Iterable[Any]) -> tuple[int, int]:
        correct = count = images = 0
        for batch in loader:
            data = distiller.data_preprocessor(batch, False)
            scored = teacher.score(data["inputs"], data["data_samples"])
            correct, count, images = correct + scored[0], count + scored[1], images + len(data["data_samples"])
            if images * get_world_size() >= self.num_images:
                break
        counts = torch.tensor([correct, count])
        all_reduce(counts)
        return int(counts[0]), int(counts[1])

    def _judge(self, teacher: Teacher, correct: int, count: int, unit: str, chance: float) -> None:
        score = correct / max(1, count)
        teacher.score_text = f"{score:.1%} of the first {count} {unit}"
        spread = (chance * (1 - chance) / max(1, count)) ** 0.5
        minimum = self.min_score if self.min_score is not None else min(0.95, chance + 3 * spread)
        if score < minimum:
            raise ValueError(
                f"teacher {teacher.name!r} scores {score:.1%} on the first {count} {unit}, chance is {chance:.1%}: its "
                f"checkpoint ({teacher.checkpoint}), class order or input normalisation is wrong, or it was "
                "trained too briefly; to train all the same set default_hooks.teacher_check.min_score=0"
            )
