"""Attention transfer from the teachers that linear probes found to be the best at each stage: GPAC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.at import ATLoss
from kd_mm.losses.base import ALL_TASKS, LossContext, MultiTeacherLoss, Preparation, choice
from kd_mm.losses.functional import full_precision, same_size
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS

SELECTIONS = ("argmax", "topk", "soft", "all")


@MODELS.register_module()
class GPACAttentionLoss(MultiTeacherLoss, ATLoss):
    """At each stage the student attends to the places that the best teacher attends to: GPAC's middle layers.

    ``L = sum_l sum_m s_ml d(F_s^l, F_m^l)`` over stages l and teachers m, ``d`` attention transfer
    (:class:`kd_mm.losses.ATLoss`) and ``s`` the shares that follow from ``a_ml``, the accuracy of a
    linear probe on teacher m's stage l (:class:`kd_mm.preparation.Probing`, before training). GPAC (Neural
    Networks 164, 2023, doi 10.1016/j.neunet.2023.04.015) rates teachers so and scales a loss on spatial attention by a
    function of the epoch with three levels (``schedule=dict(type="kd_mm.PiecewiseConstant")``); its equations
    were not available.
    **Every formula and default here is our reading.**

    Selections: ``"argmax"``, the best teacher of each stage; ``"topk"``, the best ``top`` with equal shares;
    ``"soft"``, ``softmax_m(a_ml / sharpness)``; ``"all"``, ``1 / M`` without probes. Of equals the teacher whose own
    answers are better comes first, then the one named first.

    Args:
        selection: One of these.
        top: Teachers a stage with ``"topk"``.
        sharpness: Scale of the softmax over accuracies (fractions), above 0.
        distance: Of the attention maps: ``"l2"``, squared; ``"l1"``, absolute, both the mean over places; ``"kl"``,
            ``KL(softmax(A_t) || softmax(A_s))`` over places of the maps in units of their means.
        probes: Options of the probes, see :class:`kd_mm.preparation.Probing`.
        **kwargs: See :class:`kd_mm.losses.ATLoss`; without ``teacher``.

    Raises:
        ValueError: An unknown selection or distance, a ``top`` below 1 or ``sharpness`` that is not above 0.
    """

    def __init__(
        self,
        selection: str = "argmax",
        top: int = 2,
        sharpness: float = 0.05,
        distance: str = "l2",
        probes: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.selection = choice("selection", selection, SELECTIONS)
        self.distance = choice("distance", distance, ("l2", "l1", "kl"))
        if top < 1 or sharpness <= 0:
            raise ValueError(f"GPACAttentionLoss: top={top} must be 1 or more, sharpness={sharpness} above 0")
        self.top, self.sharpness, self.probes = top, sharpness, dict(probes or {})
        #: Share of each teacher in each stage; empty until the probes have been rated.
        self.shares: dict[int, dict[str, float]] = {}

    @property
    def needs_probes(self) -> bool:
        """Whether there is anything to choose."""
        return self.selection != "all" and len(self.teacher_names) > 1

    def choose_teachers(self, name: str, teachers: Sequence[str], extra: Sequence[str] = ()) -> None:
        """Read every teacher of the config; see the base class for errors."""
        super().choose_teachers(name, teachers, extra)
        self.tasks = ALL_TASKS - {"detection"} if self.needs_probes else ALL_TASKS

    def setup(self, context: LossContext) -> None:
        """Settle the shares where nothing is to be chosen; see the base class for errors."""
        self.num_stages = len(context.pairs_by_teacher[self.teacher_names[0]])
        if not self.needs_probes:
            stages = self.stage_numbers(self.num_stages)
            self.shares = {i: dict.fromkeys(self.teacher_names, 1 / len(self.teacher_names)) for i in stages}

    def preparation(self) -> Preparation | None:
        """Return the probing of the teachers' stages, where there is anything to choose."""
        if not self.needs_probes:
            return None
        return Preparation("kd_mm.Probing", "probes", self.probes, {"stages": self.stage_numbers(self.num_stages)})

    def load_preparation(self, results: Mapping[str, Mapping[str, float]]) -> None:
        """Choose the teachers by the scores of their probes."""
        stages = self.stage_numbers(self.num_stages)
        accuracy = {name: {i: row[f"stage{i}"] for i in stages} for name, row in results.items()}
        self.choose(accuracy, {name: row["final"] for name, row in results.items()})

    def choose(self, accuracy: Mapping[str, Mapping[int, float]], final: Mapping[str, float]) -> None:
        """Derive the shares from what the probes reached.

        Args:
            accuracy: Fraction in [0, 1] by teacher and stage.
            final: Accuracy of each teacher's own answers, which decides between equals.
        """
        stages = sorted(next(iter(accuracy.values())))
        self.shares = {i: self._shares({name: accuracy[name][i] for name in self.teacher_names}, final) for i in stages}

    def _shares(self, rated: Mapping[str, float], final: Mapping[str, float]) -> dict[str, float]:
        if self.selection == "soft":
            weights = torch.tensor(list(rated.values()), dtype=torch.float64).div(self.sharpness).softmax(dim=0)
            return dict(zip(rated, weights.tolist(), strict=True))
        order = sorted(rated, key=lambda name: (-rated[name], -final.get(name, 0.0), self.teacher_names.index(name)))
        count = min(self.top, len(order)) if self.selection == "topk" else 1
        return dict.fromkeys(order[:count], 1 / count)

    def terms(self, student: Observation, teachers: Mapping[str, Observation]) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the distance of each stage.

        Raises:
            RuntimeError: The probes were not rated.
        """
        if not self.shares:
            raise RuntimeError(
                "GPACAttentionLoss: the teachers' probes are not rated: register the hook "
                "kd_mm.PrepareTeachersHook (default_hooks = {{_base_.kd_hooks}}) or set selection='all'"
            )
        parts = {}
        for i in self.stage_numbers(max(student.features)):
            terms = [
                share * self.compare(student.features[i], teachers[name].features[i].detach())
                for name, share in self.shares[i].items()
            ]
            parts[f"stage{i}"] = torch.stack(terms).sum()
        return parts

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the distance of two maps ``(B, C_s, H, W)`` and ``(B, C_t, H, W)``, a scalar."""
        if self.distance == "l2":
            return super().compare(student, teacher)
        student, teacher = same_size(full_precision(student), full_precision(teacher))
        ours, theirs = self.attention(student), self.attention(teacher)
        if self.distance == "l1":
            return F.l1_loss(ours, theirs)
        log_q, log_p = (_relative(attention).log_softmax(dim=1) for attention in (ours, theirs))
        return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def _relative(attention: Tensor) -> Tensor:
    return attention / attention.mean(dim=1, keepdim=True).clamp(min=1e-6)  # of a map of zeros
