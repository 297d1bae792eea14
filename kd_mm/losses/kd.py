"""Knowledge distillation on a network's own logits (Hinton et al. 2015), and the base of losses on logits."""

from typing import Any

from torch import Tensor

from kd_mm.losses.base import Loss, LossContext
from kd_mm.losses.functional import class_divergence, full_precision, standardized
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS


class LogitsLoss(Loss):
    """Base of the losses in which a student's logits follow a teacher's.

    The teacher's logits come as constants, or with a gradient to an adapter of the recipe
    (:class:`kd_mm.losses.LearningSimplifier`), never to the teacher.

    Args:
        standardize: Whether both sides are brought to mean 0 and standard deviation 1 over the classes of each sample
            first, so that the student need not match the teacher's scale: logit standardisation (Sun et al., CVPR 2024,
            arXiv 2403.01427). Default: False.
        multilabel: Whether classes are independent sigmoids. These cannot be standardised: the level of a sigmoid's
            logit decides whether its class is present. Default: as the task's stage logits are for a loss on stages,
            else as the student's own logits are; those of detectors count as a softmax.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For standardised sigmoids; on construction of the Distiller, for a dense head's logits
            ``(B, N, K)``.
    """

    exclusive_classes = True

    def __init__(self, standardize: bool = False, multilabel: bool | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.standardize, self.multilabel = standardize, multilabel
        self._check_multilabel()

    def _check_multilabel(self) -> None:
        if self.standardize and self.multilabel:
            raise ValueError(
                f"{type(self).__name__}: standardize=True needs classes that exclude each other (softmax); the level "
                "of a sigmoid's logit decides whether its class is present, so leave it out"
            )

    def setup(self, context: LossContext) -> None:
        """Read the task's kind of classes and check the shape of the student's own logits.

        Raises:
            ValueError: If they are a dense head's ``(B, N, K)``.
        """
        if self.multilabel is None:
            self.multilabel = context.multilabel if self.reads_exits else context.multilabel_logits
            self._check_multilabel()
        if "student.logits" in self.requires and len(context.logits_shape) == 3 and not self.multilabel:
            raise ValueError(
                f"{type(self).__name__} compares one row of logits an image or region, this detector predicts at "
                f"{context.logits_shape[1]} positions: use kd_mm.DetKDLoss (recipe kd)"
                + (", one for each teacher (teacher=...)" if len(self.teacher_names) > 1 else "")
            )

    def compared(self, logits: Tensor) -> Tensor:
        """Return logits ``(..., K)`` as they are compared, at least float32."""
        return standardized(logits) if self.standardize else full_precision(logits)


@MODELS.register_module()
class KDLoss(LogitsLoss):
    """Compare the student's softened logits with the teacher's: knowledge distillation (Hinton et al. 2015).

    ``KD_T = T^2 / B * sum KL(softmax(z_t / T) || softmax(z_s / T))``: sum over classes, mean over the batch.

    Args:
        temperature: T > 0, dimensionless; commonly 4 on CIFAR, 1 on ImageNet. Default: 4.
        multilabel: Use independent sigmoids instead of a softmax; then the mean over classes, K times smaller than
            mmpretrain's sum. Default: as the student's own logits are.
        **kwargs: See :class:`LogitsLoss`.
    """

    requires = frozenset({"student.logits", "teacher.logits"})
    exclusive_classes = False

    def __init__(self, temperature: float = 4.0, multilabel: bool | None = None, **kwargs: Any) -> None:
        super().__init__(multilabel=multilabel, **kwargs)
        self.temperature = temperature

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the divergence under the name ``final``."""
        logits, target = self.compared(student.logits), self.compared(teacher.logits)
        return {"final": class_divergence(logits, target, self.temperature, self.multilabel)}
