"""Multi-granularity distillation: codes of a feature (MAG) and logits decoded from them (MAS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.losses.base import ALL_TASKS, LossContext, Preparation
from kd_mm.losses.cosine import NO_EMBEDDING, EmbeddingLoss, embedding_tap, embedding_width
from kd_mm.losses.functional import full_precision, kl_divergence
from kd_mm.losses.kd import LogitsLoss
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS

BRANCHES = ("low", "high")


def two_layers(width: int, out: int, inner: int) -> nn.Sequential:
    """Return linear, ReLU, linear: ``(B, width)`` to ``(B, out)``, with biases."""
    return nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, out))


class Codes(nn.Module):
    """Encoders of a feature ``(B, D)`` into a code of few and one of many numbers, and decoders into logits ``(B, K)``.

    Args:
        width: D, also that of the hidden layers.
        dims: Numbers of both codes.
        num_classes: K. Default: 0, no decoders.
    """

    def __init__(self, width: int, dims: Sequence[int], num_classes: int = 0) -> None:
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
    """Mixin of the losses that read a teacher's codes.

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
            RuntimeError: If they were not prepared.
        """
        if not self._codes:
            raise RuntimeError(
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
    are those of the public code, ``shaoeric/multi-granularity-distillation``.

    Args:
        code_dims: Numbers of the low- and the high-dimensional code, equal on both sides. Default: (64, 256).
        code_temperatures: T of each; it enters squared. Default: (2, 8).
        code_weights: ``w_low, w_high``. Default: (1, 1).
        preparation: See :class:`kd_mm.preparation.CodeTraining`.
        **kwargs: See :class:`kd_mm.losses.cosine.EmbeddingLoss`.
    """

    frozen_teacher = True
    # The teacher's codes are trained with its logits.
    requires = frozenset({"student.taps", "teacher.taps", "teacher.logits"})

    def __init__(
        self,
        code_dims: Sequence[int] = (64, 256),
        code_temperatures: Sequence[float] = (2.0, 8.0),
        code_weights: Sequence[float] = (1.0, 1.0),
        preparation: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.set_up(code_dims, code_temperatures, preparation)
        self.code_weights = tuple(code_weights)

    def setup(self, context: LossContext) -> None:
        """Build the student's codes of the measured width; see the base class for errors."""
        student, self.width = self.widths(context)
        self.codes = Codes(student, self.code_dims)

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the divergence of each code, ``low`` and ``high``, times its weight."""
        codes = self.codes.encode(full_precision(student.taps[self.student_tap]))
        with torch.no_grad():
            targets = self.teacher_codes().encode(full_precision(teacher.taps[self.teacher_tap]))
        return {
            name: weight * kl_divergence(codes[name], targets[name], temperature)
            for name, weight, temperature in zip(BRANCHES, self.code_weights, self.code_temperatures, strict=True)
        }


@MODELS.register_module()
class MASLoss(CodeReader, LogitsLoss):
    """Compare the student's logits with the mean of the teacher's three sets of logits: stable excitation (MAS).

    ``L = T^2 KL(softmax(z / T) || softmax(z_s / T))``, ``z = (z_t + D_low(e_t) + D_high(e_t')) / 3``: the teacher's
    own logits and those decoded from its codes. Source and public code as for :class:`MAGLoss`; T 4, weight 0.8 beside
    0.2 of the student's own loss, or 1 and 1 beside a loss on features.

    Args:
        temperature: T > 0, dimensionless. Default: 4.
        code_dims: See :class:`MAGLoss`.
        code_temperatures: See :class:`MAGLoss`.
        preparation: See :class:`kd_mm.preparation.CodeTraining`; equal options are prepared once.
        teacher_tap: See :class:`MAGLoss`.
        **kwargs: See :class:`kd_mm.losses.kd.LogitsLoss`.
    """

    frozen_teacher = True
    requires = frozenset({"student.logits", "teacher.logits", "teacher.taps"})
    instead = NO_EMBEDDING

    def __init__(
        self,
        temperature: float = 4.0,
        code_dims: Sequence[int] = (64, 256),
        code_temperatures: Sequence[float] = (2.0, 8.0),
        preparation: Mapping[str, Any] | None = None,
        teacher_tap: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.set_up(code_dims, code_temperatures, preparation)
        self.temperature, self.teacher_tap = temperature, teacher_tap or ""
        self.tasks = ALL_TASKS if teacher_tap else ALL_TASKS - {"detection"}

    def extra_taps(self, student: nn.Module, teacher: nn.Module) -> tuple[Sequence[str], Sequence[str]]:
        """Return the tap of the teacher's feature; see the base class."""
        self.teacher_tap = self.teacher_tap or embedding_tap(teacher, "teacher_tap")
        return (), (self.teacher_tap,)

    def setup(self, context: LossContext) -> None:
        """Measure the teacher's feature; see the base class for further errors.

        Raises:
            ValueError: If it is no embedding ``(B, D)``.
        """
        super().setup(context)
        self.width = embedding_width("MASLoss", self.teacher_tap, context.teacher_taps)

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the divergence under the name ``final``."""
        with torch.no_grad():
            codes = self.teacher_codes()
            decoded = codes.decode(codes.encode(full_precision(teacher.taps[self.teacher_tap])))
        target = torch.stack([full_precision(teacher.logits), *decoded.values()]).mean(dim=0)
        return {"final": kl_divergence(self.compared(student.logits), self.compared(target), self.temperature)}
