"""How much alike the classes are in the features of a frozen teacher, by centred kernel alignment (CKA)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.distillers import Distiller, Teacher
from kd_mm.preparation.base import TeacherPreparation
from kd_mm.preparation.data import TrainingData
from kd_mm.registry import PREPARATIONS


@PREPARATIONS.register_module()
class ClassRelations(TeacherPreparation):
    """Relates the classes by the teacher's features of their training images, for :class:`kd_mm.losses.WKDLogitsLoss`.

    The features are the spatial means of the last stage, the images those without augmentation, through the validation
    pipeline. The option is ``max_images`` of each class.
    """

    kind = "relations"
    defaults = {"max_images": 500}

    def __init__(
        self,
        distiller: Distiller,
        teacher: Teacher,
        source: str,
        options: Mapping[str, Any],
        stage: int,
        num_classes: int,
    ) -> None:
        super().__init__(distiller, teacher, source, options)
        self.stage, self.num_classes = stage, num_classes

    def fingerprint(self, data: TrainingData) -> list[Any]:
        """Return the stage, the images and the options."""
        return [self.teacher.stages[self.stage].tap, data.plain_dataset()[0], self.num_classes, self.options]

    def run(self, data: TrainingData, partial: Path) -> dict[str, Any]:
        """Read the features and relate them; see the base class."""

        def read(inputs: Tensor) -> dict[str, Tensor]:
            maps = self.stage_maps(self.teacher.record(inputs), {self.stage: self.teacher.stages[self.stage]})
            return {"features": maps[self.stage].mean(dim=(2, 3))}

        title = f"features of teacher {self.teacher.name}"
        found, labels = data.collect_over_dataset(read, title)
        few = int((labels.bincount(minlength=self.num_classes) < 2).sum())
        if few:
            data.runner.logger.warning(
                f"relations of teacher {self.teacher.name!r}: {few} of {self.num_classes} classes have less than 2 "
                "training images, from which CKA relates them to no other; WKDLogitsLoss(relation='classifier') does"
            )
        relations = class_relations(found["features"], labels, self.num_classes, self.options["max_images"])
        others = relations[~torch.eye(self.num_classes, dtype=torch.bool)]
        scores = {"mean": float(others.mean()), "largest": float(others.max())}
        return {"state_dict": relations, "scores": scores, "metric": "linear CKA of two classes"}

    def untrained(self) -> Tensor:
        """Return relations of classes that are all unlike."""
        return torch.eye(self.num_classes)

    def load(self, state: Tensor, origin: str) -> Tensor:
        """Return the relations ``(K, K)``."""
        return state


def class_relations(features: Tensor, labels: Tensor, num_classes: int, max_images: int) -> Tensor:
    """Return the linear CKA of the features of every two classes ``(K, K)`` (Kornblith et al. 2019, arXiv 1905.00414).

    ``CKA_ij = <G_i, G_j> / (|G_i| |G_j|)`` with the Gram matrices ``G_i = X_i X_i^T`` of the centred features
    ``X_i``, ``(n, D)``, of n images of class i. Which image of one class goes with which of the other is their order in
    the data, as in WKD's code. n is the number of images of the largest class; a smaller one repeats its images, and
    one with less than two is related to no other (0): our reading.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)``.
        num_classes: K.
        max_images: Limit of n.
    """
    counts = labels.bincount(minlength=num_classes)
    relations = torch.eye(num_classes)
    enough = (counts >= 2).nonzero()[:, 0]
    if len(enough):
        order = torch.arange(min(max_images, int(counts.max())))
        own = torch.stack([features[labels == k][order % counts[k]] for k in enough]).float()
        own = own - own.mean(dim=1, keepdim=True)
        grams = F.normalize((own @ own.mT).flatten(1), dim=1)
        relations[enough[:, None], enough] = grams @ grams.T
    return relations
