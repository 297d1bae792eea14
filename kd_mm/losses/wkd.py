"""Wasserstein distances of logits, over the relations of the classes, and of Gaussians of features (WKD)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.losses.base import ALL_TASKS, LossContext, Preparation
from kd_mm.losses.dkd import labelled_classes
from kd_mm.losses.fitnets import FeatureLoss
from kd_mm.losses.functional import channel_deviations
from kd_mm.losses.kd import LogitsLoss
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS
from kd_mm.utils.suggest import choice, missing_hook


@MODELS.register_module()
class WKDLogitsLoss(LogitsLoss):
    """Move the student's probabilities to the teacher's at the cost of unlike classes: WKD-L.

    "Wasserstein distance rivals Kullback-Leibler divergence for knowledge distillation" (Lv et al., NeurIPS 2024, arXiv
    2412.08139). Of logits ``z_s, z_t`` and the labelled class y:

    * ``target``: ``-mean_b softmax(z_t)_y log softmax(z_s)_y``;
    * ``others``: ``gamma mean_b sum_ij P_ij c_ij``, where the plan P moves ``softmax(z_s[others] / T)`` to
      ``softmax(z_t[others] / T)`` over the classes without y. P comes from Sinkhorn's iterations for the cost
      ``c_ij = 1 - exp(-sharpness (1 - R_ij))`` with the entropy's weight ``regularization``.

    The relation R of two classes is the linear CKA of the teacher's features of their training images
    (:class:`kd_mm.preparation.ClassRelations`), or the cosine of their rows in the teacher's classifier. Public code:
    ``JiamingLv/WKD``, with the same values. A soft label counts as its largest class: our reading.

    Args:
        temperature: T > 0, dimensionless, of ``others``; the target's is 1. Default: 8.
        gamma: Weight of ``others``. Default: 200.
        relation: ``"cka"`` or ``"classifier"``. Default: ``"cka"``.
        max_images: Images of each class that ``"cka"`` reads at most, 2 or more. Default: 500.
        sharpness: How fast the cost grows with unlikeness. Default: 1.
        regularization: Above 0, in units of the cost. Default: 0.05.
        iterations: Of Sinkhorn. Default: 10.
        **kwargs: See :class:`kd_mm.losses.kd.LogitsLoss`.

    Raises:
        ValueError: For an unknown ``relation``, or less than 2 ``max_images``; on construction of the Distiller, for
            ``"classifier"`` and a teacher without a linear layer to the classes; on use, for targets without a class
            for each row of logits.
    """

    requires = frozenset({"student.logits", "teacher.logits", "student.targets"})
    tasks = ALL_TASKS - {"detection"}
    instead = "it compares the labels of images; for detectors take kd_mm.WKDFeatureLoss (recipe wkd_features)"
    reads_last_stage = True
    cost: Tensor

    def __init__(
        self,
        temperature: float = 8.0,
        gamma: float = 200.0,
        relation: str = "cka",
        max_images: int = 500,
        sharpness: float = 1.0,
        regularization: float = 0.05,
        iterations: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if max_images < 2:
            raise ValueError(f"WKDLogitsLoss: max_images={max_images} of a class must be 2 or more")
        self.relation = choice("relation", relation, ("cka", "classifier"))
        self.temperature, self.gamma, self.sharpness = temperature, gamma, sharpness
        self.max_images, self.regularization, self.iterations = max_images, regularization, iterations
        self.register_buffer("cost", torch.empty(0), persistent=False)
        if relation == "cka":
            self.requires = self.requires | {"teacher.pooled"}
            self.frozen_teacher = True
        self._num_classes = 0
        self._layers: list[Tensor] = []

    def extra_taps(self, student: nn.Module, teacher: nn.Module) -> tuple[Sequence[str], Sequence[str]]:
        """Find the weights of the teacher's linear layers; it taps nothing."""
        self._layers = [layer.weight.detach() for layer in teacher.modules() if isinstance(layer, nn.Linear)]
        return (), ()

    def setup(self, context: LossContext) -> None:
        """Read the teacher's classifier where it relates the classes; see the base class for further errors.

        Raises:
            ValueError: If no linear layer of the teacher ends in the classes.
        """
        super().setup(context)
        self._num_classes, layers = context.num_classes, [w for w in self._layers if len(w) == context.num_classes]
        self._layers = []
        if self.relation == "classifier":
            if not layers:
                raise ValueError(
                    f"WKDLogitsLoss: the teacher has no linear layer to the {context.num_classes} classes; take "
                    "relation='cka'"
                )
            rows = nn.functional.normalize(layers[-1].float(), dim=1)
            self.set_relations(rows @ rows.T)

    def preparation(self) -> Preparation | None:
        """Return the relations of the classes in the teacher's features, where these are asked for."""
        if self.relation == "classifier":
            return None
        stage = self.stage_numbers(len(self.matched))[-1]
        settings = {"stage": stage, "num_classes": self._num_classes}
        return Preparation("kd_mm.ClassRelations", "max_images", {"max_images": self.max_images}, settings)

    def load_preparation(self, results: Mapping[str, Tensor]) -> None:
        """Derive the cost from the relations ``(K, K)`` of the teacher."""
        self.set_relations(results[self.teacher_names[0]])

    def set_relations(self, relations: Tensor) -> None:
        """Derive the cost ``(K, K)`` from relations of the classes, of which 1 is the same class."""
        cost = 1 - torch.exp(-self.sharpness * (1 - relations))
        self.cost = (cost.relu() + 1e-8).to(self.cost.device)

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return both weighted terms.

        Raises:
            StepError: If the relations of the classes were not prepared.
        """
        if not len(self.cost):
            what = "WKDLogitsLoss: the relations of the classes are not prepared"
            raise missing_hook(what, "PrepareTeachersHook", " or set relation='classifier'")
        logits, targets = self.compared(student.logits), self.compared(teacher.logits)
        labels = labelled_classes(student.targets, len(logits))[:, None]
        confidence, log_q = targets.softmax(dim=1).gather(1, labels), logits.log_softmax(dim=1).gather(1, labels)
        # The labelled class gets a share of 0, which no iteration changes: the same as to leave it out.
        own, target = (
            (side / self.temperature).scatter(1, labels, float("-inf")).softmax(dim=1) for side in (logits, targets)
        )
        distance = transport_cost(own, target, self.cost, self.regularization, self.iterations).mean()
        return {"target": -(confidence * log_q).mean(), "others": self.gamma * distance}


@MODELS.register_module()
class WKDFeatureLoss(FeatureLoss):
    """Compare Gaussians of the student's connected channels with those of the teacher's: WKD-F.

    The squared 2-Wasserstein distance of Gaussians with a diagonal covariance (Lv et al., NeurIPS 2024, arXiv
    2412.08139), the means weighted: ``L = mean_{b,cells} sum_c [mean_weight (mu_s - mu_t)^2 + (sigma_s - sigma_t)^2]``
    with the mean and the deviation over the positions of each cell. Public code: ``JiamingLv/WKD``, with the same
    values. By default the last stage alone is read, as there.

    Args:
        grid: A map is cut into ``grid * grid`` cells, as adaptive pooling cuts it. Default: 1.
        mean_weight: Weight of the means. Default: 4.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.
    """

    reads_last_stage = True

    def __init__(self, grid: int = 1, mean_weight: float = 4.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grid, self.mean_weight = grid, mean_weight

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        own, target = _cells(student, self.grid), _cells(teacher, self.grid)
        total = student.new_zeros(())
        for one, other in zip(own, target, strict=True):
            means = (one.mean(dim=(2, 3)) - other.mean(dim=(2, 3))).square().sum()
            deviations = (channel_deviations(one) - channel_deviations(other)).square().sum()
            total = total + self.mean_weight * means + deviations
        return total / (len(student) * self.grid**2)


def transport_cost(student: Tensor, teacher: Tensor, cost: Tensor, regularization: float, iterations: int) -> Tensor:
    """Return what it costs to move each row of ``student`` to that of ``teacher``, by Sinkhorn's iterations.

    Cuturi, NeurIPS 2013, arXiv 1306.0895. The last iteration meets the student's shares.

    Args:
        student: Shares ``(B, K)``, at least float32; the rows add up to 1.
        teacher: Likewise.
        cost: ``(K, K)``, from a class of the student's to one of the teacher's.
        regularization: Weight of the plan's entropy, above 0, in units of the cost.
        iterations: 1 or more.

    Returns:
        Shape ``(B,)``, in units of the cost.
    """
    cost = cost.to(student)
    kernel = torch.exp(-cost / regularization)
    rows = (student > 0).to(student)
    rows = rows / rows.sum(dim=1, keepdim=True)
    for _ in range(iterations):
        columns = teacher / (rows @ kernel + 1e-8)
        rows = student / (columns @ kernel.T + 1e-8)
    return ((rows @ (kernel * cost)) * columns).sum(dim=1)


def _cells(feature: Tensor, grid: int) -> list[Tensor]:
    """Cut a map ``(B, C, H, W)`` into ``grid * grid`` cells, row by row; cells overlap where sizes do not divide."""
    rows, columns = (
        [slice(i * length // grid, -(-(i + 1) * length // grid)) for i in range(grid)] for length in feature.shape[2:]
    )
    return [feature[:, :, row, column] for row in rows for column in columns]
