"""What the features of a frozen teacher tell: linear probes of its stages, relations of the classes."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.preparation.base import TeacherPreparation
from kd_mm.preparation.data import TrainingData
from kd_mm.registry import PREPARATIONS
from kd_mm.utils.suggest import choice


@PREPARATIONS.register_module()
class Probing(TeacherPreparation):
    """Scores the stages of a frozen teacher by linear probes, for losses that choose between teachers.

    A probe is a linear softmax classifier on a frozen stage, trained apart from the network (Alain and Bengio 2016,
    arXiv 1610.01644), on a part of the training images, and scored on the rest, the same for all teachers. The images
    come without augmentation, through the validation pipeline. The options are ``probes`` of
    :class:`kd_mm.losses.GPACAttentionLoss`: ``metric`` (``"accuracy"`` of the probe, or ``"retrieval"``, rank-1 of the
    features by cosine without a probe), ``input`` (``"gap"``, the mean over positions, ``"pool4"``, the 4 x 4 average,
    or ``"flat"``), ``held_out`` (share of each class that is scored) or ``folds`` of a cross-validation, ``epochs``,
    ``batch_size``, ``lr``, ``weight_decay`` and ``seed`` of Adam, ``max_images`` that are read (``None`` for all),
    ``max_gigabytes`` that their features may take.

    Raises:
        ValueError: An unknown option, or a value out of its range.
    """

    kind = "probes"
    defaults = {
        "metric": "accuracy",
        "input": "gap",
        "held_out": 0.1,
        "folds": None,
        "epochs": 20,
        "batch_size": 256,
        "lr": 1e-3,
        "weight_decay": 0.0,
        "seed": 0,
        "max_images": 100_000,
        "max_gigabytes": 8.0,
    }

    def setup(self, stages: Sequence[int]) -> None:
        choice(f"{self.source}.input", self.options["input"], ("gap", "pool4", "flat"))
        choice(f"{self.source}.metric", self.options["metric"], ("accuracy", "retrieval"))
        held_out, folds = self.options["held_out"], self.options["folds"]
        if not 0 < held_out < 1 or (folds is not None and folds < 2):
            raise ValueError(f"{self.source}: held_out={held_out} must be between 0 and 1, folds={folds} 2 or more")
        self.stages = tuple(stages)

    def fingerprint(self, data: TrainingData) -> list[Any]:
        options = {key: value for key, value in self.options.items() if key != "max_gigabytes"}
        return [{i: self.teacher.stages[i].tap for i in self.stages}, data.plain_dataset()[0], options]

    def run(self, data: TrainingData, partial: Path) -> dict[str, Any]:
        images = len(data.runner.train_dataloader.dataset)
        images = min(images, self.options["max_images"] or images)

        def read(inputs: Tensor) -> dict[str, Tensor]:
            records = self.teacher.record(inputs)
            maps = self.stage_maps(records, {i: self.teacher.stages[i] for i in self.stages})
            features = {f"stage{i}": pool_feature(feature, self.options["input"]) for i, feature in maps.items()}
            width = sum(feature.shape[1] for feature in features.values())
            if (needed := 4e-9 * width * images) > self.options["max_gigabytes"]:
                raise ValueError(
                    f"probes: features of {width} numbers for {images} images take {needed:.1f} GB, more than "
                    f"max_gigabytes={self.options['max_gigabytes']:g}: lower probes.max_images, or set "
                    "probes.input='gap'"
                )
            return {**features, "final": self.teacher.logits(inputs, records).argmax(dim=-1)}

        title = f"features of teacher {self.teacher.name}"
        found, labels = data.collect_over_dataset(read, title, self.options["max_images"])
        splits = held_out_splits(labels, self.options["held_out"], self.options["folds"], self.options["seed"])
        predictions = found.pop("final")
        scores = {name: probe_score(feature, labels, splits, self.options) for name, feature in found.items()}
        right = (predictions == labels).float()
        scores["final"] = float(np.mean([float(right[held_out].mean()) for _, held_out in splits]))
        return {
            "state_dict": scores,
            "scores": scores,
            "metric": f"{self.options['metric']} on held-out training images",
        }

    def untrained(self) -> dict[str, float]:
        return {**{f"stage{i}": 1.0 for i in self.stages}, "final": 1.0}

    def summarize(self, name: str, loss: Any, results: Mapping[str, Any], data: TrainingData) -> None:
        """Log the teachers of each stage by ``loss.shares``."""
        for i, shares in loss.shares.items():
            chosen = ", ".join(f"{teacher} ({share:.0%})" for teacher, share in shares.items() if share > 0)
            data.runner.logger.info(f"{name}: stage {i} is guided by {chosen}")


def pool_feature(feature: Tensor, kind: str) -> Tensor:
    """Return what a probe reads of a map ``(B, C, H, W)``: ``(B, D)``, float32; ``kind`` as the option ``input``."""
    feature = feature.float()
    if kind == "gap":
        return feature.mean(dim=(2, 3))
    return (F.adaptive_avg_pool2d(feature, 4) if kind == "pool4" else feature).flatten(1)


def held_out_splits(labels: Tensor, share: float, folds: int | None, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split samples into those that are trained on and those that are held out, stratified by class.

    Args:
        labels: ``(N,)``.
        share: What is held out, but at least one sample of each class that has two or more.
        folds: Number of splits, each with other samples held out; ``None`` for one split by ``share``.
        seed: Of the choice.

    Returns:
        Sorted indices of both parts, by split.

    Raises:
        ValueError: Nothing would be held out or trained on.
    """
    from sklearn.model_selection import StratifiedKFold, train_test_split

    classes, inverse, counts = np.unique(labels.numpy(), return_inverse=True, return_counts=True)
    divisible = np.flatnonzero(counts[inverse] > 1)
    strata = inverse[divisible]
    try:
        if folds:
            parts = [part for _, part in StratifiedKFold(folds, shuffle=True, random_state=seed).split(strata, strata)]
        else:
            size = max(round(share * len(strata)), int((counts > 1).sum()))
            parts = [train_test_split(np.arange(len(strata)), test_size=size, stratify=strata, random_state=seed)[1]]
    except ValueError as error:
        raise ValueError(
            f"{len(labels)} training images of {len(classes)} classes leave nothing to hold out or to train on; give "
            "more images, or a smaller probes.folds"
        ) from error
    held_out = [np.sort(divisible[part]) for part in parts]
    return [(np.setdiff1d(np.arange(len(labels)), part), part) for part in held_out]


def probe_score(
    feature: Tensor, labels: Tensor, splits: Sequence[tuple[np.ndarray, np.ndarray]], options: Mapping[str, Any]
) -> float:
    """Return the score of a feature ``(N, D)`` on what was held out, the mean over the splits, a fraction."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import cross_val_score
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier

    if options["metric"] == "retrieval":
        probe = KNeighborsClassifier(1, metric="cosine")
    else:  # without a hidden layer: softmax regression, by Adam
        probe = MLPClassifier(
            (),
            batch_size=min(options["batch_size"], *(len(train) for train, _ in splits)),
            learning_rate_init=options["lr"],
            alpha=options["weight_decay"],
            max_iter=options["epochs"],
            n_iter_no_change=options["epochs"],
            random_state=options["seed"],
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is given
        return float(cross_val_score(probe, feature.numpy(), labels.numpy(), cv=splits, error_score="raise").mean())


@PREPARATIONS.register_module()
class ClassRelations(TeacherPreparation):
    """Relates the classes by the teacher's features of their training images, for :class:`kd_mm.losses.WKDLogitsLoss`.

    The features are the spatial means of the last stage, the images those without augmentation, through the validation
    pipeline. The option is ``max_images`` of each class.
    """

    kind = "relations"
    defaults = {"max_images": 500}

    def setup(self, stage: int, num_classes: int) -> None:
        self.stage, self.num_classes = stage, num_classes

    def fingerprint(self, data: TrainingData) -> list[Any]:
        return [self.teacher.stages[self.stage].tap, data.plain_dataset()[0], self.num_classes, self.options]

    def run(self, data: TrainingData, partial: Path) -> dict[str, Any]:
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
        return torch.eye(self.num_classes)


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
