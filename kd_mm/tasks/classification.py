"""Image classification: what a response is, what an exit's target is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.registry import TASKS


@TASKS.register_module()
class ClassificationTask:
    """Classification with mmpretrain's classifiers; a response is a row of class logits ``(B, K)``."""

    #: Metric of an exit, as it is shown in logs.
    metric = "accuracy"

    def answer_tap(self, model: nn.Module) -> str:
        """Return the tap of the network's own logits: its head, or the wrapped network where there is no head.

        Raises:
            ValueError: The network is not a classifier with logits.
        """
        if isinstance(getattr(model, "head", None), nn.Module):
            return "head"
        if isinstance(getattr(model, "model", None), nn.Module):
            return "model"
        raise ValueError(
            f"{type(model).__name__} has no head that gives class logits; kd_mm distils classifiers with a 'head' "
            "(ImageClassifier) or a wrapped 'model' (TimmClassifier)"
        )

    def trunk(self, model: nn.Module) -> str:
        """Return the name of the submodule whose stages are looked for."""
        return "backbone" if hasattr(model, "backbone") else "model"

    def targets(self, data_samples: Sequence[Any]) -> Tensor:
        """Return what the task loss compares with: soft labels ``(B, K)`` where batch augmentation made them, else
        class indices ``(B,)``; the same choice as mmpretrain's heads make."""
        if "gt_score" in data_samples[0]:
            return torch.stack([sample.gt_score for sample in data_samples])
        return torch.cat([sample.gt_label for sample in data_samples])

    def exit_loss(self, model: nn.Module, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the network's own classification loss (label smoothing, soft labels and weight included) on the
        logits ``(B, K)`` of an exit: a scalar, mean over the batch."""
        owner: Any = getattr(model, "head", None) or model
        return owner.loss_module(logits, targets, avg_factor=logits.shape[0])

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return which of B answers are right, bool ``(B,)``; a soft label counts as its largest class."""
        hard = targets.argmax(dim=1) if targets.ndim == 2 else targets
        return logits.argmax(dim=1) == hard

    def forward_features(self, model: nn.Module, inputs: Tensor) -> Any:
        """Run a network up to and including its backbone and neck."""
        return model.extract_feat(inputs)  # type: ignore[operator]

    def forward(self, model: nn.Module, inputs: Tensor) -> Any:
        """Run a whole network in ``tensor`` mode: no losses, no post-processing."""
        return model(inputs, mode="tensor")

    def chance(self, num_classes: int) -> float:
        """Return the accuracy of guessing, a fraction."""
        return 1.0 / num_classes
