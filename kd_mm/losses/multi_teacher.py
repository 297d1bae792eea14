"""Several teachers at once: logits and maps averaged, or weighted by confidence (CA-MKD) or by the student (GPAC)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.base import ALL_TASKS, Loss, LossContext
from kd_mm.losses.functional import confidence_weights, full_precision, same_size, softmax_divergence
from kd_mm.losses.kd import LogitsLoss
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS
from kd_mm.utils.suggest import choice, warn

WEIGHTS = ("mean", "ca_mkd", "softmax", "inverse", "cosine")
#: Lower limit of a divergence that divides.
_TINY = 1e-8


class MultiTeacherLoss(Loss):
    """Base of losses that read all teachers of the config at once; see :class:`Loss`."""

    def choose_teachers(self, name: str, teachers: Sequence[str], extra: Sequence[str] = ()) -> None:
        """Read every teacher of the config; see the base class for errors.

        Raises:
            ValueError: The config of the loss names a teacher.
        """
        if self.teacher is not None:
            raise ValueError(
                f"loss {name!r} reads all teachers ({', '.join(teachers)}); leave teacher={self.teacher!r} out"
            )
        super().choose_teachers(name, teachers[:1])
        self.teacher_names = tuple(teachers)

    def terms(self, student: Observation, teachers: Mapping[str, Observation]) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the unweighted scalars; what each connector gave is in ``connected`` of the student."""
        raise TypeError(f"{type(self).__name__} defines no terms()")

    def evaluate(self, student: Observation, teachers: Mapping[str, Observation]) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(student.device_type, enabled=False):
            return self._reduced(self.terms(student, {name: teachers[name] for name in self.teacher_names}))


@MODELS.register_module()
class MultiTeacherKDLoss(MultiTeacherLoss, LogitsLoss):
    """Compare the student's logits with those of all teachers, each teacher weighted for each sample.

    ``L = T^2 / B sum_b sum_m w_mb k_mb`` with ``k_mb = KL(softmax(z_m / T) || softmax(z_s / T))`` over M teachers. The
    weights of a sample add up to 1:

    * ``"mean"``: ``w = 1 / M``, Hinton's KD averaged over the teachers;
    * ``"ca_mkd"``: ``w = (1 - softmax_m(CE(z_m, y))) / (M - 1)``, from the label: a wrong or unsure teacher counts less
      (CA-MKD, Zhang et al., ICASSP 2022, arXiv 2201.00007);
    * ``"softmax"``: ``w = softmax_m(-k_m / kappa)``;
    * ``"inverse"``: ``w = (1 / k_m) / sum_n (1 / k_n)``;
    * ``"cosine"``: ``w = softmax_m(cos(z_s, z_m) / kappa)``.

    The last three are the adaptive instruction of GPAC (Neural Networks 164, 2023, doi 10.1016/j.neunet.2023.04.015),
    whose weights come from the divergence between the student and each teacher and stress the direction in which the
    student predicts already. Its equations were not available: these three rules are our reading.

    Public code of CA-MKD: ``Rorozhl/CA-MKD``, which divides by M once more (its weight 1 is 1 / M here).

    Args:
        weights: One of the rules above. Default: ``"mean"``.
        temperature: T > 0, dimensionless. Default: 4.
        kappa: Temperature > 0 of the softmax over teachers; in units of ``k`` with ``"softmax"``. Default: 1.
        granularity: ``"sample"``, or ``"batch"`` to average what the rule reads over the batch first. Default:
            ``"sample"``.
        detach: Whether the weights are constants. Otherwise the student also lowers the loss by moving towards the
            teacher that costs least. Default: True.
        **kwargs: See :class:`kd_mm.losses.kd.LogitsLoss`; without ``teacher``.

    Raises:
        ValueError: For an unknown rule or granularity, or a ``kappa`` that is not above 0; on use, for ``"ca_mkd"``
            with one teacher or without a label for each row of logits.
    """

    requires = frozenset({"student.logits", "teacher.logits", "student.targets"})
    instead = (
        "weights='ca_mkd' rate the teachers by the label of an image; take the recipe multi_kd (weights='mean'; of "
        "detectors those of two stages), or kd with one teacher"
    )

    def __init__(
        self,
        weights: str = "mean",
        temperature: float = 4.0,
        kappa: float = 1.0,
        granularity: str = "sample",
        detach: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.weights = choice("weights", weights, WEIGHTS)
        self.granularity = choice("granularity", granularity, ("sample", "batch"))
        if kappa <= 0:
            raise ValueError(f"MultiTeacherKDLoss: kappa={kappa} must be above 0")
        self.temperature, self.kappa, self.detach = temperature, kappa, detach
        if weights == "ca_mkd":
            self.tasks = ALL_TASKS - {"detection"}
        else:
            self.requires = self.requires - {"student.targets"}

    def setup(self, context: LossContext) -> None:
        super().setup(context)
        _check_teachers(self, self.weights)
        if len(self.teacher_names) < 2:
            warn(
                "MultiTeacherKDLoss averages over teachers, and there is one: that is the recipe kd; give more "
                "teachers (--teacher A B --teacher-checkpoint A.pth B.pth) for the comparison with several"
            )

    def terms(self, student: Observation, teachers: Mapping[str, Observation]) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the weighted divergence from each teacher, by its name."""
        logits = [teacher.logits for teacher in teachers.values()]
        student_logits, compared = self.compared(student.logits), torch.stack([self.compared(z) for z in logits])
        softer = student_logits / self.temperature
        divergences = softmax_divergence(softer.expand_as(compared), compared / self.temperature)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach):
            if self.weights == "ca_mkd":
                weights = confidence_weights(logits, student.targets, average=self.granularity == "batch")
            else:
                weights = self.instruction_weights(divergences, student_logits, compared)
        terms = (weights * divergences).mean(dim=1) * self.temperature**2
        return dict(zip(teachers, terms.unbind(), strict=True))

    def instruction_weights(self, divergences: Tensor, student: Tensor, teachers: Tensor) -> Tensor:
        """Return the weights ``(M, B)`` of M teachers that need no label; they add up to 1 for each sample.

        Args:
            divergences: ``k``, ``(M, B)``.
            student: The student's logits ``(B, K)``.
            teachers: Logits ``(M, B, K)``.
        """
        if self.weights == "mean":
            return torch.full_like(divergences, 1 / len(teachers))
        scores = -divergences
        if self.weights == "cosine":
            scores = F.cosine_similarity(student.expand_as(teachers), teachers, dim=-1)
        if self.granularity == "batch":
            scores = scores.mean(dim=1, keepdim=True).expand_as(scores)
        if self.weights != "inverse":
            return (scores / self.kappa).softmax(dim=0)
        # Rounding can take a divergence of nearly equal logits below zero.
        closeness = 1 / (-scores).clamp(min=_TINY)
        return closeness / closeness.sum(dim=0, keepdim=True)


@MODELS.register_module()
class MultiTeacherFeatureLoss(MultiTeacherLoss):
    """Compare the student's connected maps with those of all teachers: the feature term of CA-MKD.

    ``L = 1 / B sum_b sum_m w_mb mean_{c,h,w} (r_m(F_s) - F_m)^2`` over M teachers at the last stage, ``r_m`` being the
    recipe's connector to teacher m, with, for each sample,

    * ``"ca_mkd"``: ``w = (1 - softmax_m(CE(g_m(r_m(F_s)), y))) / (M - 1)``, ``g_m`` the part of teacher m behind its
      last stage (pooling and classifier): a teacher whose classifier finds the label in the student's map counts more
      (CA-MKD, Zhang et al., ICASSP 2022, arXiv 2201.00007);
    * ``"mean"``: ``w = 1 / M``, FitNets with several teachers.

    Public code: ``Rorozhl/CA-MKD``, which divides the first form by M once more (its weight 50 is 50 / M here) and
    resizes the student's map before the connector; here the larger of both is pooled after it. As there, gradients pass
    through the weights.

    Args:
        weights: ``"ca_mkd"`` or ``"mean"``. Default: ``"ca_mkd"``.
        detach: Whether the weights are constants; the public code's are not. Default: False.
        **kwargs: See :class:`kd_mm.losses.base.Loss`; without ``teacher``. ``stages`` is the last one by default, and
            has to be with ``"ca_mkd"``.

    Raises:
        ValueError: For unknown weights; for ``"ca_mkd"`` with one teacher, at other stages, or without a label for each
            image.
    """

    requires = frozenset({"student.adapted", "student.targets", "teacher.features", "teacher.classifier"})
    reads_last_stage = True

    def __init__(self, weights: str = "ca_mkd", detach: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weights, self.detach = choice("weights", weights, ("mean", "ca_mkd")), detach
        self.exclusive_classes = weights == "ca_mkd"
        if weights == "mean":
            self.requires = self.requires - {"student.targets", "teacher.classifier"}

    def stage_numbers(self, num_stages: int) -> tuple[int, ...]:
        """Return the stages that are read, see the base class.

        Raises:
            ValueError: For other stages than the last, where the teachers' classifiers read the maps.
        """
        stages = super().stage_numbers(num_stages)
        if self.weights == "ca_mkd" and stages != (num_stages,):
            raise ValueError(
                f"MultiTeacherFeatureLoss: stages={list(stages)}, but the teachers' classifiers read the last stage, "
                f"{num_stages}: leave stages out, or set weights='mean'"
            )
        return stages

    def setup(self, context: LossContext) -> None:
        _check_teachers(self, self.weights)

    def terms(self, student: Observation, teachers: Mapping[str, Observation]) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the weighted distance to each teacher; the stages of ``"mean"`` are added up."""
        maps = {name: connected.adapted for name, connected in student.connected.items()}
        stages = self.stage_numbers(max(maps[next(iter(teachers))]))
        distances = torch.stack(
            [
                torch.stack([_distances(maps[name][i], teacher.features[i].detach()) for i in stages]).sum(dim=0)
                for name, teacher in teachers.items()
            ]
        )
        if self.weights == "mean":
            values = distances.mean(dim=1) / len(teachers)
        else:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach):
                logits = [t.classifier(full_precision(maps[name][stages[-1]])) for name, t in teachers.items()]
                weights = confidence_weights(logits, student.targets)
            values = (weights * distances).mean(dim=1)
        return dict(zip(teachers, values.unbind(), strict=True))


def _distances(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared distance ``(B,)`` of two maps ``(B, C, H, W)`` of equal C."""
    student, teacher = same_size(full_precision(student), full_precision(teacher))
    return F.mse_loss(student, teacher, reduction="none").flatten(1).mean(dim=1)


def _check_teachers(loss: MultiTeacherLoss, weights: str) -> None:
    if weights == "ca_mkd" and len(loss.teacher_names) < 2:
        raise ValueError(
            f"{type(loss).__name__}: weights='ca_mkd' compares teachers, and there is one; use weights='mean'"
        )
