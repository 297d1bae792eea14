"""Scores the teachers on the first validation batches, so that one that knows nothing is found at once."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from kd_mm.distillers import Distiller, Teacher, find_distiller
from kd_mm.hooks.distill_hook import check_class_lists
from kd_mm.registry import HOOKS
from kd_mm.utils.random_state import isolated_rng


@HOOKS.register_module()
class TeacherCheckHook(Hook):
    """Stops a run whose teacher scores near chance on the first validation images.

    Where the classes of the validation data are others (re-identification), the first training images count instead.

    Args:
        num_images: How many images are looked at.
        min_score: Accuracy in [0, 1] (of a detector: share of the objects that it finds) below which the run stops; by
            default three standard deviations of guessing above chance. 0 switches the stop off, not the log.
    """

    priority = "HIGH"

    def __init__(self, num_images: int = 512, min_score: float | None = None) -> None:
        self.num_images, self.min_score = num_images, min_score

    def before_train(self, runner: Runner) -> None:
        """Score every teacher whose answer is used.

        Raises:
            ValueError: A teacher's score is below the minimum, or its class list is not that of the data.
        """
        distiller = find_distiller(runner)
        check_class_lists(distiller, runner)  # says more than a low score
        split = "validation" if distiller.task.closed_set else "training"
        loader_config: Any = runner.cfg.get("val_dataloader" if distiller.task.closed_set else "train_dataloader")
        if loader_config is None:
            runner.logger.info(f"no {split} data in the config: the teachers' scores are not checked")
            return
        for name, teacher in distiller.teachers.items():
            if teacher.is_ema:  # as good as the student, which knows nothing yet
                continue
            # A teacher whose answers no loss reads may know other classes than the data set.
            classes = distiller.num_classes.get(name) or distiller.task.num_classes(teacher.model, None)
            if classes is not None and classes == distiller.num_classes.get("", classes):
                with isolated_rng("teacher check"):
                    right, seen = self._score(runner, distiller, teacher, loader_config)
                self._judge(teacher, right, seen, f"{split} {distiller.task.unit}", distiller.task.chance(classes))

    def _score(self, runner: Runner, distiller: Distiller, teacher: Teacher, config: Any) -> tuple[int, int]:
        config = copy.deepcopy(dict(config))
        config.update(num_workers=0, persistent_workers=False)
        config.pop("prefetch_factor", None)
        # The first images in a fixed random order: many sets are sorted by class.
        config["sampler"] = {"type": "DefaultSampler", "shuffle": True, "seed": 0}
        loader = runner.build_dataloader(config, seed=0)
        right = seen = images = 0
        for batch in loader:
            data = distiller.data_preprocessor(batch, False)
            hits, count = teacher.score(data["inputs"], data["data_samples"], distiller.task)
            right, seen, images = right + hits, seen + count, images + len(data["data_samples"])
            if images * get_world_size() >= self.num_images:
                break
        counts = torch.tensor([right, seen])
        all_reduce(counts)
        return int(counts[0]), int(counts[1])

    def _judge(self, teacher: Teacher, right: int, seen: int, what: str, chance: float) -> None:
        score = right / max(1, seen)
        teacher.score_text = f"{score:.1%} of the first {seen} {what}"
        spread = (chance * (1 - chance) / max(1, seen)) ** 0.5
        minimum = self.min_score if self.min_score is not None else min(0.95, chance + 3 * spread)
        if score < minimum:
            raise ValueError(
                f"teacher {teacher.name!r} scores {score:.1%} on the first {seen} {what}, chance is {chance:.1%}: its "
                f"checkpoint ({teacher.checkpoint}), class order or input normalisation is wrong; "
                "to go on all the same set default_hooks.teacher_check.min_score=0"
            )
