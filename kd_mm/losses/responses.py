"""What losses on pairs of logits have in common: both sides may be standardised before they are compared."""

from typing import Any

from torch import Tensor

from kd_mm.losses.base import Loss, LossContext
from kd_mm.losses.functional import full_precision, standardized


class ResponseLoss(Loss):
    """Base of the losses in which a student's logits follow a teacher's.

    The teacher's logits are taken as they come: as constants, or with a gradient to the recipe's ``transform``
    (:mod:`kd_mm.losses.response_transform`), never to the teacher.

    Args:
        standardize: Whether both sides are brought to mean 0 and standard deviation 1 over the classes of each sample
            first, so that the student need not match the teacher's scale: logit standardisation (Sun et al., CVPR 2024,
            arXiv 2403.01427). Its public code has temperature 2 and weight 9 for KD, and 9 times the weights of DKD.
        multilabel: Whether classes are independent sigmoids, which cannot be standardised: their level means something.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: Standardised sigmoids; on construction of the Distiller, a dense head's answer ``(B, N, K)``.
    """

    def __init__(self, standardize: bool = False, multilabel: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if standardize and multilabel:
            raise ValueError(
                f"{type(self).__name__}: standardize=True needs classes that exclude each other (softmax); the level "
                "of a sigmoid's logit says whether its class is there, so leave it out"
            )
        self.standardize, self.multilabel = standardize, multilabel

    def setup(self, context: LossContext) -> None:
        """Look at the student's own answer.

        Raises:
            ValueError: It is a dense head's ``(B, N, K)``, no single row.
        """
        if "student.logits" in self.needs() and len(context.answer) == 3 and not self.multilabel:
            raise ValueError(
                f"{type(self).__name__} compares one row of logits an answer, this detector answers at "
                f"{context.answer[1]} places: use kd_mm.DetKDLoss (recipe kd)"
                + (", one for each teacher (teacher=...)" if self.all_teachers else "")
            )

    def compared(self, logits: Tensor) -> Tensor:
        """Return logits ``(B, K)`` as they are compared, at least float32."""
        return standardized(logits) if self.standardize else full_precision(logits)
