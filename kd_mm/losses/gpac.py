"""Attention transfer from the teachers that linear probes rate best at each stage (GPAC)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses.at import ATLoss
from kd_mm.losses.base import ALL_TASKS, LossContext, Preparation
from kd_mm.losses.functional import full_precision, kl_divergence, same_size
from kd_mm.losses.multi_teacher import MultiTeacherLoss
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS
from kd_mm.utils.suggest import choice, missing_hook

SELECTIONS = ("argmax", "topk", "soft", "all")


@MODELS.register_module()
class GPACAttentionLoss(MultiTeacherLoss, ATLoss):
    """Compare the student's attention at each stage with the best teacher's: the feature term of GPAC.

    ``L = sum_l sum_m s_ml d(F_s^l, F_m^l)`` over stages l and teachers m, ``d`` attention transfer
    (:class:`kd_mm.losses.ATLoss`) and ``s`` the shares that follow from ``a_ml``, the accuracy of a linear probe on
    teacher m's stage l (:class:`kd_mm.preparation.Probing`). GPAC (Neural Networks 164, 2023, doi
    10.1016/j.neunet.2023.04.015) rates teachers so and scales a loss on spatial attention by a function of the epoch
    with three levels (``schedule=dict(type="kd_mm.PiecewiseConstant")``); its equations were not available. **Every
    formula and default here is our reading.**

    Selections: ``"argmax"``, the best teacher of each stage; ``"topk"``, the best ``top`` with equal shares;
    ``"soft"``, ``softmax_m(a_ml / sharpness)``; ``"all"``, ``1 / M`` without probes. Of equals the teacher with the
    higher accuracy of its own comes first, then the one named first.

    Args:
        selection: One of these. Default: ``"argmax"``.
        top: Teachers a stage with ``"topk"``. Default: 2.
        sharpness: Scale of the softmax over accuracies (fractions), above 0. Default: 0.05.
        distance: Of the attention maps: ``"l2"``, squared; ``"l1"``, absolute, both the mean over positions; ``"kl"``,
            ``KL(softmax(A_t) || softmax(A_s))`` over positions of the maps in units of their means. Default: ``"l2"``.
        probes: Options of the probes, see :class:`kd_mm.preparation.Probing`.
        **kwargs: See :class:`kd_mm.losses.ATLoss`; without ``teacher``.

    Raises:
        ValueError: For an unknown selection or distance, a ``top`` below 1 or a ``sharpness`` that is not above 0.
    """

    instead = (
        "linear probes rate the teachers by the class of an image, and in detection an image has no single one; "
        "take the recipe multi_kd (two-stage detectors), or at with one teacher, or set selection='all'"
    )

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
        super().choose_teachers(name, teachers, extra)
        self.tasks = ALL_TASKS - {"detection"} if self.needs_probes else ALL_TASKS
        self.exclusive_classes = self.needs_probes

    def setup(self, context: LossContext) -> None:
        """Set equal shares where nothing is to be chosen; see the base class for errors."""
        if not self.needs_probes:
            equal = dict.fromkeys(self.teacher_names, 1 / len(self.teacher_names))
            self.shares = dict.fromkeys(self.stage_numbers(len(self.matched)), equal)

    def preparation(self) -> Preparation | None:
        """Return the probing of the teachers' stages, where there is anything to choose."""
        if not self.needs_probes:
            return None
        return Preparation("kd_mm.Probing", "probes", self.probes, {"stages": self.stage_numbers(len(self.matched))})

    def load_preparation(self, results: Mapping[str, Mapping[str, float]]) -> None:
        """Derive the shares from accuracies in [0, 1] by teacher: ``stage<i>`` of a probe, ``final`` of its logits."""
        self.shares = {i: self._shares(f"stage{i}", results) for i in self.stage_numbers(len(self.matched))}

    def _shares(self, stage: str, results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        rated = {name: results[name][stage] for name in self.teacher_names}
        if self.selection == "soft":
            weights = torch.tensor(list(rated.values()), dtype=torch.float64).div(self.sharpness).softmax(dim=0)
            return dict(zip(rated, weights.tolist(), strict=True))
        # Sorting is stable, so that the teacher named first stays first among equals.
        order = sorted(rated, key=lambda name: (rated[name], results[name]["final"]), reverse=True)
        count = min(self.top, len(order)) if self.selection == "topk" else 1
        return dict.fromkeys(order[:count], 1 / count)

    def terms(self, student: Observation, teachers: Mapping[str, Observation]) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the distance of each stage.

        Raises:
            StepError: If the probes were not rated.
        """
        if not self.shares:
            what = "GPACAttentionLoss: the teachers' probes are not rated"
            raise missing_hook(what, "PrepareTeachersHook", " or set selection='all'")
        values = {}
        for i in self.stage_numbers(max(student.features)):
            feature = full_precision(student.features[i])
            distances = [
                share * self.compare(feature, full_precision(teachers[name].features[i].detach()))
                for name, share in self.shares[i].items()
            ]
            values[f"stage{i}"] = torch.stack(distances).sum()
        return values

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        attention, target = (self.attention(feature) for feature in same_size(student, teacher))
        if self.distance == "l2":
            return F.mse_loss(attention, target)
        if self.distance == "l1":
            return F.l1_loss(attention, target)
        # In units of the mean, whose limit is for maps of zeros.
        own, other = (one / one.mean(dim=1, keepdim=True).clamp(min=1e-6) for one in (attention, target))
        return kl_divergence(own, other)
