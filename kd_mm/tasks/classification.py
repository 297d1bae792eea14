"""Image classification: logits once an image, labels as targets."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.registry import TASKS
from kd_mm.stages.tap import child
from kd_mm.tasks.base import Task
from kd_mm.tasks.prediction_readers import LogitsReader


@TASKS.register_module()
class ClassificationTask(Task):
    """Classification with mmpretrain's classifiers; stage logits are ``(B, K)``."""

    def logits_reader(self, model: nn.Module, student: bool) -> LogitsReader:
        """Return how the network's own logits are read: at its head, or at the wrapped network without a head.

        Raises:
            ValueError: The network is not a classifier with logits, or has several rows of them an image.
        """
        from mmpretrain.models.heads import ConformerHead, MultiTaskHead

        if isinstance(child(model, "head"), ConformerHead):
            return LogitsReader("head[0]", "head[1]")
        if isinstance(child(model, "head"), MultiTaskHead):
            raise ValueError(
                "MultiTaskHead gives logits for each of its tasks, and this recipe reads one row of them an image: "
                "take one of features alone, such as fitnets, at or pkd"
            )
        for name in ("head", "model"):
            if child(model, name) is not None:
                return LogitsReader(name)
        raise ValueError(
            f"{type(model).__name__} has no head that gives class logits; kd_mm distils classifiers with a 'head' "
            "(ImageClassifier) or a wrapped 'model' (TimmClassifier)"
        )

    def num_classes(self, model: nn.Module, logits: Tensor | None) -> int | None:
        """Return K, of measured logits or as the head states it; ``None`` where it states none."""
        return getattr(child(model, "head"), "num_classes", None) if logits is None else int(logits.shape[-1])

    def classifier(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the map from a feature map of the last stage to the logits ``(B, K)``: neck and head.

        Raises:
            ValueError: The network has no head.
        """
        network: Any = model
        head = child(model, "head")
        if head is None:
            raise ValueError(
                f"{type(model).__name__} has no 'head' that could read a map; leave the loss that needs it out"
            )
        like = next(head.parameters())

        def logits(feature: Tensor) -> Tensor:
            feats = (feature.to(like.dtype),)
            return head(network.neck(feats) if network.with_neck else feats)

        return logits

    def targets(self, data_samples: Sequence[Any], records: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return what the task loss compares with: soft labels ``(B, K)`` where batch augmentation made them, else
        class indices ``(B,)``; the same choice as mmpretrain's heads make."""
        if "gt_score" in data_samples[0]:
            return torch.stack([sample.gt_score for sample in data_samples])
        return torch.cat([sample.gt_label for sample in data_samples])

    def exit_losses(self, model: nn.Module, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the network's own classification loss (label smoothing, soft labels and weight included) on the
        logits ``(N, B, K)`` of N exits: ``(N,)``, each a mean over the batch."""
        from mmpretrain.models.losses import CrossEntropyLoss, LabelSmoothLoss

        head = child(model, "head")
        owner: Any = model if head is None else head
        loss, (exits, batch) = owner.loss_module, logits.shape[:2]
        if exits > 1 and isinstance(loss, CrossEntropyLoss | LabelSmoothLoss):  # the loss of a row is its own alone
            repeated = targets.repeat(exits, *[1] * (targets.ndim - 1))
            rows = loss(logits.flatten(0, 1), repeated, reduction_override="none")
            return rows.view(exits, -1).sum(dim=1) / batch
        return torch.stack([loss(one, targets, avg_factor=batch) for one in logits])

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return which of B rows of logits are right, ``(B,)``; a soft label counts as its largest class."""
        return (logits.argmax(dim=1) == _hard(targets)).float()

    def constant_scores(self, targets: Tensor, width: int) -> Tensor:
        """Return the number of images of each class, ``(1, K)``."""
        return torch.bincount(_hard(targets), minlength=width)[None].float()

    def forward(self, model: nn.Module, inputs: Tensor) -> Any:
        """Run a network to its end in ``tensor`` mode: no losses, no post-processing."""
        logits = model(inputs, mode="tensor")
        return sum(logits) if isinstance(logits, tuple) else logits

    def score(self, model: nn.Module, inputs: Tensor, data_samples: Sequence[Any]) -> Tensor:
        """Return how many images of a batch a network classifies right, and how many there are, ``(2,)``."""
        correct = self.correct(self.forward(model, inputs), self.targets(data_samples))
        return torch.tensor([int(correct.sum()), len(correct)])


def _hard(targets: Tensor) -> Tensor:
    return targets.argmax(dim=1) if targets.ndim == 2 else targets
