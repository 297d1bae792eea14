"""Multi-granularity distillation: codes of the teacher's feature (MAG), and logits decoded from them (MAS)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_mm.losses.base import ALL_TASKS, Loss, LossContext, Preparation
from kd_mm.losses.cosine import NO_EMBEDDING, EmbeddingLoss, embedding_tap, embedding_width
from kd_mm.losses.functional import full_precision, kl_divergence
from kd_mm.losses.kd import LogitsLoss
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS
from kd_mm.utils.suggest import choice, missing_hook

BRANCHES = ("low", "high")


def two_layers(width: int, out: int, inner: int) -> nn.Sequential:
    """Return linear, ReLU, linear: ``(B, width)`` to ``(B, out)``, with biases."""
    return nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, out))


class Codes(nn.Module):
    """Encoders of a feature ``(B, D)`` into a code of few and one of many numbers, and decoders into logits ``(B, K)``.

    Args:
        width: D, also that of the hidden layers.
        dims: Numbers of both codes.
        num_classes: K, or 0 for no decoders.
    """

    def __init__(self, width: int, dims: Sequence[int], num_classes: int) -> None:
        super().__init__()
        sizes = dict(zip(BRANCHES, dims, strict=True))
        self.encoders = nn.ModuleDict({name: two_layers(width, size, width) for name, size in sizes.items()})
        decoders = {name: two_layers(size, num_classes, width) for name, size in sizes.items()} if num_classes else {}
        self.decoders = nn.ModuleDict(decoders)

    def encode(self, feature: Tensor) -> dict[str, Tensor]:
        """Return the codes of ``(B, D)`` by branch."""
        return {name: encoder(feature) for name, encoder in self.encoders.items()}

    def decode(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the logits ``(B, K)`` of each code."""
        return {name: decoder(codes[name]) for name, decoder in self.decoders.items()}


class CodeReader(Loss):
    """Base of the losses that read a teacher's codes, which are trained before distillation.

    Args:
        code_dims: Numbers of the low- and the high-dimensional code. Default: (64, 256).
        code_temperatures: T of each code and of the training of its decoder. Default: (2, 8).
        preparation: See :class:`kd_mm.preparation.CodeTraining`; losses with equal options share the codes.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: If there are not two dimensions and temperatures above 0.
    """

    frozen_teacher = True
    exclusive_classes = True
    instead = NO_EMBEDDING
    #: Where the teacher's feature is read, and its measured width D.
    teacher_tap: str
    teacher_width: int

    def __init__(
        self,
        code_dims: Sequence[int] = (64, 256),
        code_temperatures: Sequence[float] = (2.0, 8.0),
        preparation: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if len(code_dims) != 2 or len(code_temperatures) != 2 or min(*code_dims, *code_temperatures) <= 0:
            raise ValueError(
                f"{type(self).__name__}: code_dims={list(code_dims)} and code_temperatures={list(code_temperatures)} "
                "are two numbers above 0 each, for the low-dimensional and the high-dimensional code"
            )
        self.code_dims, self.code_temperatures = tuple(code_dims), tuple(code_temperatures)
        self.code_options = dict(preparation or {})
        # In a tuple: the teacher's codes are frozen and belong neither to the optimizer nor into checkpoints.
        self._codes: tuple[Codes, ...] = ()

    def preparation(self) -> Preparation:
        settings: dict[str, Any] = {"tap": self.teacher_tap, "width": self.teacher_width}
        settings |= {"dims": self.code_dims, "temperatures": self.code_temperatures}
        return Preparation("kd_mm.CodeTraining", "preparation", self.code_options, settings)

    def load_preparation(self, results: Mapping[str, Codes]) -> None:
        self._codes = tuple(results.values())

    def teacher_codes(self) -> Codes:
        """Return the teacher's codes.

        Raises:
            StepError: If they were not prepared.
        """
        if not self._codes:
            raise missing_hook(f"{type(self).__name__}: the teacher's codes are not trained", "PrepareTeachersHook")
        return self._codes[0]


@MODELS.register_module()
class MAGLoss(CodeReader, EmbeddingLoss):
    """Compare two codes of the student's and the teacher's feature: granularity-wise distillation (MAG).

    ``L = w_low 2^2 KL(softmax(e_t / 2) || softmax(e_s / 2)) + w_high 8^2 KL(softmax(e_t' / 8) || softmax(e_s' / 8))``
    on codes ``e (B, 64)`` and ``e' (B, 256)``, softmax over the numbers of a code. A code is the output of two linear
    layers on the input of the final classifier; the teacher's are trained before distillation, the student's with it.
    Shao and Chen (Image and Vision Computing, 2021, arXiv 2108.06681); formulas, dimensions, temperatures and weights
    are those of the public code, ``shaoeric/multi-granularity-distillation``; the paper's own equations were not
    available. Temperatures enter squared, so do not divide by that to balance the two codes.

    Args:
        code_weights: ``w_low, w_high``. Default: (1, 1).
        student_stable_weight: Weight of ``2^2 KL(softmax(z / 2) || softmax(z_s / 2))``, z being the mean of the
            student's three sets of logits, constant; an early script of the public code had it. Default: 0.
        build_student_decoders: Whether the student has decoders even where nothing reads them (the public checkpoint's
            layout). Nothing trains them. Default: False.
        **kwargs: See :class:`CodeReader` and :class:`kd_mm.losses.EmbeddingLoss`.
    """

    # The teacher's codes are trained with its logits.
    requires = frozenset({"student.taps", "teacher.taps", "teacher.logits", "student.logits"})

    def __init__(
        self,
        code_weights: Sequence[float] = (1.0, 1.0),
        student_stable_weight: float = 0.0,
        build_student_decoders: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.code_weights, self.student_stable_weight = tuple(code_weights), student_stable_weight
        if not student_stable_weight:
            self.requires = self.requires - {"student.logits"}
        self.build_student_decoders = build_student_decoders or student_stable_weight != 0

    def setup(self, context: LossContext) -> None:
        super().setup(context)
        if self.build_student_decoders and not context.num_classes:
            raise ValueError("MAGLoss: the student's decoders need a number of classes, and no network has one")
        num_classes = context.num_classes if self.build_student_decoders else 0
        self.codes = Codes(self.student_width, self.code_dims, num_classes)
        self.codes.decoders.requires_grad_(False)

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the divergence of each code, ``low`` and ``high``, and ``stable``, weighted against each other."""
        codes = self.codes.encode(full_precision(student.taps[self.student_tap]))
        with torch.no_grad():
            targets = self.teacher_codes().encode(full_precision(teacher.taps[self.teacher_tap]))
        terms = {
            name: weight * kl_divergence(codes[name], targets[name], temperature)
            for name, weight, temperature in zip(BRANCHES, self.code_weights, self.code_temperatures, strict=True)
            if weight
        }
        if self.student_stable_weight:
            with torch.no_grad():
                decoded = self.codes.decode(codes)
                mean = torch.stack([full_precision(student.logits), *decoded.values()]).mean(dim=0)
            terms["stable"] = self.student_stable_weight * kl_divergence(student.logits, mean, 2.0)
        return terms or {"low": 0.0 * codes["low"].sum()}


@MODELS.register_module()
class MASLoss(CodeReader, LogitsLoss):
    """Compare the student's logits with the mean of the teacher's three sets of logits: stable excitation (MAS).

    ``L = T^2 KL(softmax(z / T) || softmax(z_s / T))``, ``z = (z_t + D_low(e_t) + D_high(e_t')) / 3``: the teacher's
    own logits and those decoded from its codes (:class:`MAGLoss`). With ``stable_space="prob"`` (our reading) the
    softmaxes are averaged instead of the logits. Source and public code as there; T 4, weight 0.8 beside 0.2 of the
    student's own loss, or 1 and 1 beside a loss on features.

    Args:
        temperature: T > 0, dimensionless. Default: 4.
        stable_space: ``"logit"`` or ``"prob"``. Default: ``"logit"``.
        stable_weights: Shares of the teacher's own logits, the low- and the high-dimensional ones; they add up to 1.
            Default: 1/3 each.
        teacher_tap: Where the teacher's feature is read; see :class:`kd_mm.losses.EmbeddingLoss`.
        **kwargs: See :class:`CodeReader` and :class:`kd_mm.losses.kd.LogitsLoss`.

    Raises:
        ValueError: For an unknown space, or weights that are no shares.
    """

    requires = frozenset({"student.logits", "teacher.logits", "teacher.taps"})

    def __init__(
        self,
        temperature: float = 4.0,
        stable_space: str = "logit",
        stable_weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3),
        teacher_tap: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.temperature, self.teacher_tap = temperature, teacher_tap or ""
        self.tasks = ALL_TASKS if teacher_tap else ALL_TASKS - {"detection"}
        self.stable_space = choice("stable_space", stable_space, ("logit", "prob"))
        if len(stable_weights) != 3 or min(stable_weights) < 0 or abs(sum(stable_weights) - 1) > 1e-6:
            raise ValueError(f"MASLoss: stable_weights={list(stable_weights)} must be three shares of 1")
        self.stable_weights = tuple(stable_weights)

    def extra_taps(self, student: nn.Module, teacher: nn.Module) -> tuple[Sequence[str], Sequence[str]]:
        self.teacher_tap = self.teacher_tap or embedding_tap(teacher, "teacher_tap")
        return (), (self.teacher_tap,)

    def setup(self, context: LossContext) -> None:
        super().setup(context)
        self.teacher_width = embedding_width("MASLoss", self.teacher_tap, context.teacher_taps)

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the divergence under the name ``final``."""
        with torch.no_grad():
            codes = self.teacher_codes()
            decoded = codes.decode(codes.encode(full_precision(teacher.taps[self.teacher_tap])))
        target = self.stable(teacher.logits, [decoded[name] for name in BRANCHES])
        return {"final": kl_divergence(self.compared(student.logits), self.compared(target), self.temperature)}

    def stable(self, logits: Tensor, decoded: Sequence[Tensor]) -> Tensor:
        """Return the weighted mean of three sets of logits ``(B, K)``, as logits."""
        stacked = torch.stack([full_precision(z) for z in (logits, *decoded)])
        weights = stacked.new_tensor(self.stable_weights).view(3, 1, 1)
        if self.stable_space == "logit":
            return (weights * stacked).sum(dim=0)
        log_p = F.log_softmax(stacked / self.temperature, dim=-1)
        return self.temperature * torch.logsumexp(log_p + weights.clamp(min=1e-30).log(), dim=0)
