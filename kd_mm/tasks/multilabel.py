"""Multi-label classification: a sigmoid for each class, any number of labels an image."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.losses import Loss
from kd_mm.registry import TASKS
from kd_mm.stages.tap import child
from kd_mm.tasks.base import ExitScore, TeacherScore
from kd_mm.tasks.classification import ClassificationTask
from kd_mm.tasks.targets import CellTargets, score_histogram


@TASKS.register_module()
class MultiLabelTask(ClassificationTask):
    """Classification with independent sigmoids; targets are multi-hot ``(B, K)``.

    The task of students with mmpretrain's ``MultiLabelClsHead`` or a head derived from it; for other heads set
    ``model.task=dict(type="kd_mm.MultiLabelTask")``. Teachers and exits are scored by the area under the ROC curve, a
    mean over the classes that some images have and some lack: it depends on no threshold, and that of a network whose
    logits do not depend on the image is 0.5, however rare a class is.
    """

    metric = "area under the ROC curve"
    unit = "images (area under the ROC curve)"
    multilabel = True
    classes = 0

    def note_classes(self, num_classes: int) -> None:
        self.classes = num_classes

    def check_losses(self, losses: Mapping[str, Loss]) -> None:
        """Refuse losses that have no form for sigmoids.

        Raises:
            ValueError: Naming those that have one.
        """
        super().check_losses(losses)
        for name, loss in losses.items():
            if loss.exclusive_classes:
                raise ValueError(
                    f"loss {name!r} ({type(loss).__name__}) needs classes that exclude each other, and the student's "
                    "head is multi-label: take kd_mm.KDLoss (recipe kd) or kd_mm.StageResponseLoss (mskd, mtkd_ssr), "
                    "which compare sigmoids, or a loss on features"
                )

    def targets(self, data_samples: Sequence[Any], records: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return what mmpretrain's multi-label heads learn: 1 for each label of an image, else 0, ``(B, K)``."""
        from mmpretrain.structures import label_to_onehot

        if "gt_score" in data_samples[0]:
            return torch.stack([sample.gt_score.float() for sample in data_samples])
        return torch.stack([label_to_onehot(sample.gt_label, self.classes) for sample in data_samples]).float()

    def tally(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return a histogram of the logits by class and presence ``(K, 2, bins)``."""
        present = (targets > 0.5).float()[..., None, None]
        return score_histogram(logits[..., None, None], CellTargets(present, torch.ones_like(present[:, 0]))).double()

    def measure(self, tally: Tensor) -> ExitScore:
        """Return the area under the ROC curve; less than three standard deviations above 0.5 is at chance."""
        score, minimum = ranking(tally)
        return ExitScore(score, 0.5, score < minimum)

    @torch.no_grad()
    def score(self, model: nn.Module, inputs: Tensor, data_samples: Sequence[Any]) -> Tensor:
        return self.tally(self.forward(model, inputs), self.targets(data_samples)).cpu()

    def judge(self, statistics: Tensor, num_classes: int) -> TeacherScore:
        return TeacherScore(int(statistics[0].sum()), *ranking(statistics), 0.5)


def is_multilabel(model: nn.Module) -> bool:
    """Return whether a network has a multi-label head of mmpretrain."""
    from mmpretrain.models.heads import MultiLabelClsHead

    return isinstance(child(model, "head"), MultiLabelClsHead)


def ranking(histogram: Tensor) -> tuple[float, float]:
    """Return the area under the ROC curve and what is three standard deviations of guessing above 0.5.

    The area is the chance that an image with a class gets a higher logit than one without, equal logits (of one bin)
    counting half; the variance of guessing with P images with a class and N without is that of the rank sum,
    ``(P + N + 1) / (12 P N)`` (Mann and Whitney 1947). Both are means over the classes that occur and lack, since
    logits of several classes may vary together; without any such class both are 0.5.

    Args:
        histogram: ``(K, 2, bins)``, images by class, absence and presence, and logit.
    """
    absent, present = histogram.double().unbind(dim=1)
    below = absent.cumsum(dim=-1) - absent / 2
    with_class, without = present.sum(dim=-1), absent.sum(dim=-1)
    pairs = with_class * without
    known = pairs > 0
    if not known.any():
        return 0.5, 0.5
    area = ((present * below).sum(dim=-1) / pairs)[known].mean()
    deviation = ((with_class + without + 1) / (12 * pairs))[known].sqrt().mean()
    return float(area), min(0.95, 0.5 + 3 * float(deviation))
