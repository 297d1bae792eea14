"""The response losses of MTKD-SSR on cells, for detectors: stage logits (SRD) and cross-stage review."""

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

from kd_mm.losses.base import Loss, StageTerms
from kd_mm.losses.functional import adaptive_average, sigmoid_divergence, softened
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS


def cell_divergence(
    student: Tensor, target: Tensor, positive: Tensor, counted: Tensor, temperature: float = 1.0, gamma: float = 1.0
) -> Tensor:
    """Return the divergence of logits on cells from target logits, where the two differ most.

    ``T^2 / n * sum_c m_c w_c sum_k KL(sigmoid(a_ck / T) || sigmoid(b_ck / T))`` over the cells c of all images, with
    the target ``a``, the quality focal weight ``w_c = max_k |sigmoid(a_ck) - sigmoid(b_ck)|^gamma`` (a constant; after
    the loss of GFL, Li et al. 2020, arXiv 2006.04388), the mask ``m`` and ``n``, the sum of ``sigmoid(a)`` over the
    cells that an object covers, at least 1. Our reading.

    Args:
        student: b, ``(N, B, K, h, w)``, one set of logits a stage.
        target: a, likewise; detach it where it must not move.
        positive: ``(B, h, w)``, 1 where an object covers the cell, else 0.
        counted: m, ``(B, h, w)``, 0 where ignored objects alone cover the cell, else 1.
        temperature: T > 0, dimensionless. Default: 1.
        gamma: Exponent of the weight; 0 weights all cells alike. Default: 1.

    Returns:
        One value a stage ``(N,)``.
    """
    probabilities = target.sigmoid()
    weight = (probabilities.detach() - student.detach().sigmoid()).abs().amax(dim=2).pow(gamma) * counted
    divergence = sigmoid_divergence(softened(student, temperature), softened(target, temperature))
    by_cell = weight * divergence.sum(dim=2)
    mass = (probabilities.sum(dim=2) * positive).sum(dim=(1, 2, 3)).clamp(min=1)
    return temperature**2 * by_cell.sum(dim=(1, 2, 3)) / mass


class CellLoss(Loss):
    """Base of the losses on the stage logits of :class:`kd_mm.models.CellExit`.

    Args:
        temperature: T > 0, dimensionless. Default: 1.
        gamma: Exponent of the quality focal weight, see :func:`cell_divergence`. Default: 1.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.
    """

    tasks = frozenset({"detection"})
    instead = "it compares cells of a grid; take kd_mm.StageResponseLoss and kd_mm.CrossStageReviewLoss"
    exit_outputs = frozenset({"cells"})

    def __init__(self, temperature: float = 1.0, gamma: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature, self.gamma = temperature, gamma
        self.left_out: frozenset[int] = frozenset()

    def leave_out(self, stages: Collection[int]) -> bool:
        self.left_out |= frozenset(stages)
        return True

    def compared_stages(self, observation: Observation) -> list[int]:
        """Return the stages that are compared in a step."""
        numbers = self.stage_numbers(max(observation.stage_logits))
        return [stage for stage in numbers if stage not in self.left_out]

    def divergences(self, student: Tensor, target: Tensor, targets: Any) -> Tensor:
        """Return the divergence of each of N stages ``(N,)``.

        Args:
            student: ``(N, B, K, h, w)``.
            target: Likewise, of this or another grid, whose logits then are averaged or repeated.
            targets: :class:`kd_mm.tasks.DetectionTargets`.
        """
        grid = student.shape[-2:]
        if target.shape[-2:] != grid:
            target = adaptive_average(target.flatten(0, 1), grid).view(*target.shape[:3], *grid)
        cells = targets.cells(grid)
        return cell_divergence(student, target, cells.positive, cells.counted, self.temperature, self.gamma)


@MODELS.register_module()
class CellResponseLoss(CellLoss):
    """Compare the logits of each student stage with the teacher's, cell by cell (SRD of MTKD-SSR for detectors).

    ``L_SRD = sum_i KD^cells_T(z_t^i -> z_s^i)``, see :func:`cell_divergence`. A stage whose exit of the teacher ranks
    cells no better than the classes' frequency is left out.

    Args:
        **kwargs: See :class:`CellLoss`.
    """

    requires = frozenset({"student.stage_logits", "teacher.stage_logits", "student.targets"})

    def terms(self, student: Observation, teacher: Observation) -> StageTerms:
        stages = self.compared_stages(student)
        if not stages:
            return StageTerms.none(student.stage_logits.stacked)
        logits, target = student.stage_logits.select(stages), teacher.stage_logits.select(stages).detach()
        return StageTerms([f"stage{i}" for i in stages], self.divergences(logits, target, student.targets))


@MODELS.register_module()
class CellReviewLoss(CellLoss):
    """Let each student stage learn from the next deeper one, cell by cell (review of MTKD-SSR for detectors).

    ``L_REV = sum_i KD^cells_T(sg z_s^{i+1} -> z_s^i)``, see :func:`cell_divergence`: the same cells at every stage. A
    stage whose exit of the teacher ranks cells no better than the classes' frequency is left out.

    Args:
        detach_target: Whether the deeper stage is a constant; otherwise it is drawn to the shallower one, too. Default:
            True.
        **kwargs: See :class:`CellLoss`.
    """

    requires = frozenset({"student.stage_logits", "student.targets"})

    def __init__(self, detach_target: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.detach_target = detach_target

    def terms(self, student: Observation, teacher: Observation) -> StageTerms:
        stages = self.compared_stages(student)
        if len(stages) < 2:
            return StageTerms.none(student.stage_logits.stacked)
        logits = student.stage_logits.select(stages)
        target = logits[1:].detach() if self.detach_target else logits[1:]
        names: Sequence[str] = [f"stage{j}to{i}" for i, j in zip(stages[:-1], stages[1:], strict=True)]
        return StageTerms(names, self.divergences(logits[:-1], target, student.targets))
