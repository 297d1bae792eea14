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
            maps = self.stage_maps(self.teacher.record(inputs), [self.stage])
            return {"features": maps[self.stage].mean(dim=(2, 3))}

        title = f"features of teacher {self.teacher.name}"
        found, labels = data.collect_over_dataset(read, title)
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
    the data, as in WKD's code. Every class has the n of the smallest one: our reading.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)``.
        num_classes: K.
        max_images: Limit of n.

    Raises:
        ValueError: If a class has less than two images.
    """
    counts = labels.bincount(minlength=num_classes)
    size = min(max_images, int(counts.min()))
    if size < 2:
        raise ValueError(
            f"class {int(counts.argmin())} has {int(counts.min())} training images, and CKA needs 2 or more of each "
            "class (max_images, too): set relation='classifier'"
        )
    grams = []
    for k in range(num_classes):
        own = features[labels == k][:size].float()
        own = own - own.mean(dim=0)
        grams.append(F.normalize((own @ own.T).flatten(), dim=0))
    stacked = torch.stack(grams)
    return stacked @ stacked.T
