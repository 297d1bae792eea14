"""A network that answers over fewer classes than its training data hold is found out before the first step."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from kd_mm.datasets import VOCDataset


class ClassCountHook(Hook):
    """Compares the classes of the training data with those of a plain network's head.

    A classifier would stop in its loss, a detector would learn the class that it lacks as background. A distillation
    compares its networks with the data by itself.
    """

    def before_train(self, runner: Runner) -> None:
        """Look at the data set of the training loop.

        Raises:
            ValueError: There are labels for which the head has no answer.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        dataset = runner.train_dataloader.dataset
        classes = (getattr(dataset, "metainfo", None) or {}).get("classes") or ()
        while hasattr(dataset, "dataset"):
            dataset = dataset.dataset
        key, head = _head(model, isinstance(dataset, VOCDataset))
        count = getattr(head, "num_classes", None)
        if not isinstance(count, int) or len(classes) <= count:
            return
        # A class list may be longer than what is labelled, such as ImageNet's over a part of it.
        if not isinstance(dataset, VOCDataset):
            labels = getattr(dataset, "get_gt_labels", None)
            if labels is None or max(labels(), default=0) < count:
                return
        raise ValueError(
            f"the training data set has {len(classes)} classes, the network answers over {count}: set model.{key}"
        )


def _head(model: nn.Module, detector: bool) -> tuple[str, Any]:
    """Return the key of the number of classes and the head that has it; ``None`` where there is none."""
    if not detector:
        return "head.num_classes", getattr(model, "head", None)
    roi = getattr(model, "roi_head", None)
    head = getattr(model if roi is None else roi, "bbox_head", None)
    key = "bbox_head.num_classes" if roi is None else "roi_head.bbox_head.num_classes"
    return key, head[0] if isinstance(head, nn.ModuleList) else head
