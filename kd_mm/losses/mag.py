"""Multi-granularity distillation (MAG): the teacher's feature as a low- and a high-dimensional code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.losses.base import LossContext, Preparation
from kd_mm.losses.cosine import EmbeddingLoss
from kd_mm.losses.functional import full_precision, kl_divergence
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS
from kd_mm.utils.suggest import StepError

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


class CodeReader:
    """Common part of the losses that read a teacher's codes.

    Attributes:
        code_dims: Numbers of the low-dimensional and of the high-dimensional code.
        code_temperatures: Temperature of each code and of the training of its decoder.
        code_options: Options of the training of the teacher's codes (:class:`kd_mm.preparation.CodeTraining`).
        teacher_tap: Where the teacher's feature is read.
        width: D of the teacher's feature; measured.
    """

    code_dims: tuple[int, ...]
    code_temperatures: tuple[float, ...]
    code_options: dict[str, Any]
    teacher_tap: str
    width: int = 0
    # In a tuple: the teacher's codes are frozen and belong neither to the optimizer nor into checkpoints.
    _codes: tuple[Codes, ...] = ()

    def set_up(self, dims: Sequence[int], temperatures: Sequence[float], preparation: Mapping[str, Any] | None) -> None:
        """Check and store the options.

        Raises:
            ValueError: If there are not two dimensions and temperatures above 0.
        """
        if len(dims) != 2 or len(temperatures) != 2 or min(*dims, *temperatures) <= 0:
            raise ValueError(
                f"{type(self).__name__}: code_dims={list(dims)} and code_temperatures={list(temperatures)} are two "
                "numbers above 0 each, for the low-dimensional and the high-dimensional code"
            )
        self.code_dims, self.code_temperatures = tuple(dims), tuple(temperatures)
        self.code_options = dict(preparation or {})

    def preparation(self) -> Preparation:
        """Return the training of the teacher's codes."""
        settings: dict[str, Any] = {"tap": self.teacher_tap, "width": self.width}
        settings |= {"dims": self.code_dims, "temperatures": self.code_temperatures}
        return Preparation("kd_mm.CodeTraining", "preparation", self.code_options, settings)

    def load_preparation(self, results: Mapping[str, Codes]) -> None:
        """Read the trained, frozen codes from now on."""
        self._codes = tuple(results.values())

    def teacher_codes(self) -> Codes:
        """Return the teacher's codes.

        Raises:
            StepError: If they were not prepared.
        """
        if not self._codes:
            raise StepError(
                f"{type(self).__name__}: the teacher's codes are not trained: register the hook "
                "kd_mm.PrepareTeachersHook (default_hooks = {{_base_.kd_hooks}})"
            )
        return self._codes[0]


@MODELS.register_module()
class MAGLoss(CodeReader, EmbeddingLoss):
    """Compare two codes of the student's and the teacher's feature: granularity-wise distillation (MAG).

    ``L = w_low 2^2 KL(softmax(e_t / 2) || softmax(e_s / 2)) + w_high 8^2 KL(softmax(e_t' / 8) || softmax(e_s' / 8))``
    on codes ``e (B, 64)`` and ``e' (B, 256)``, softmax over the numbers of a code. A code is the output of two linear
    layers on the input of the final classifier; the teacher's are trained before distillation, the student's with it.
    Shao and Chen (Image and Vision Computing, 2021, arXiv 2108.06681); formulas, dimensions, temperatures and weights
    are those of the public code, ``shaoeric/multi-granularity-distillation``; the paper's own equations were not
    available.

    Args:
        code_dims: Numbers of the low- and the high-dimensional code, equal on both sides. Default: (64, 256).
        code_temperatures: T of each; it enters squared, so do not divide by that to balance the two. Default: (2, 8).
        code_weights: ``w_low, w_high``. Default: (1, 1).
        student_stable_weight: Weight of ``2^2 KL(softmax(z / 2) || softmax(z_s / 2))``, z being the mean of the
            student's three sets of logits, constant; an early script of the public code had it. Default: 0.
        build_student_decoders: Whether the student has decoders even where nothing reads them (the public checkpoint's
            layout). Nothing trains them. Default: False.
        preparation: See :class:`kd_mm.preparation.CodeTraining`.
        student_tap: Where the student's feature ``(B, D)`` is read. Default: the input of the head, in
            re-identification the embedding after BNNeck.
        teacher_tap: Likewise for the teacher.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For dimensions or temperatures that are not above 0.
    """

    frozen_teacher = True
    # The teacher's codes are trained with its logits.
    requires = frozenset({"student.taps", "teacher.taps", "teacher.logits", "student.logits"})

    def __init__(
        self,
        code_dims: Sequence[int] = (64, 256),
        code_temperatures: Sequence[float] = (2.0, 8.0),
        code_weights: Sequence[float] = (1.0, 1.0),
        student_stable_weight: float = 0.0,
        build_student_decoders: bool = False,
        preparation: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.set_up(code_dims, code_temperatures, preparation)
        self.code_weights = tuple(code_weights)
        self.student_stable_weight = student_stable_weight
        if not student_stable_weight:
            self.requires = self.requires - {"student.logits"}
        self.build_student_decoders = build_student_decoders or student_stable_weight != 0

    def setup(self, context: LossContext) -> None:
        """Build the student's codes of the measured width; see the base class for errors."""
        student, self.width = self.widths(context)
        if self.build_student_decoders and not context.num_classes:
            raise ValueError("MAGLoss: the student's decoders need a number of classes, and no network has one")
        self.codes = Codes(student, self.code_dims, context.num_classes if self.build_student_decoders else 0)
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
