"""The base of all losses: observations in, named scalars out."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kd_mm.losses.observation import Connected, Observation
from kd_mm.losses.schedules import Progress, Schedule
from kd_mm.registry import SCHEDULES
from kd_mm.stages.stage import Stage
from kd_mm.utils.suggest import StepError, choice


@dataclass(frozen=True)
class Preparation:
    """What a loss needs computed on its frozen teachers before training.

    Attributes:
        type: Name of a class in :data:`kd_mm.registry.PREPARATIONS`, e.g. ``"kd_mm.CodeTraining"``.
        option: Name of the loss's option that holds ``options``, for messages.
        options: The class's options, as the config gives them.
        settings: Further arguments of the class, which follow from the networks.
    """

    type: str
    option: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


#: What a loss can read, by side; the fields of :class:`kd_mm.losses.observation.Observation`.
READABLE = frozenset(
    {
        *(f"student.{item}" for item in ("features", "adapted", "pooled", "deviations", "stage_logits", "embeddings")),
        *(f"student.{item}" for item in ("logits", "targets", "valid_classes", "sample_indices", "taps", "assignment")),
        *(f"teacher.{item}" for item in ("features", "pooled", "deviations", "stage_logits", "exit_logits")),
        *("teacher.logits", "teacher.classifier", "teacher.taps"),
    }
)
ALL_TASKS = frozenset({"classification", "detection", "reid"})


def _no_exit_losses(logits: Tensor, targets: Any) -> Tensor:
    raise TypeError("no task loss is known here")


@dataclass(frozen=True)
class LossContext:
    """What is known before training; all of it measured.

    Attributes:
        pairs: The matched (student, teacher) stages of the loss's teacher, stage 1 first; empty without a teacher. For
            a loss on exits those of the exits.
        num_classes: K, where a network states it.
        multilabel: Whether stage logits are independent sigmoids.
        multilabel_logits: Whether the student's own logits are, one row an image.
        student_taps: Shapes of the extra taps with a batch of 2, tap text to shape.
        teacher_taps: Likewise of the loss's teacher.
        logits_shape: Shape of the student's own logits with a batch of 2, where a loss reads them.
        exit_losses: The student's own task loss: stage logits ``(N, B, K)`` and targets to one value a stage ``(N,)``.
    """

    pairs: Sequence[tuple[Stage, Stage]] = ()
    num_classes: int = 0
    multilabel: bool = False
    multilabel_logits: bool = False
    student_taps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    teacher_taps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    logits_shape: tuple[int, ...] = ()
    exit_losses: Callable[[Tensor, Any], Tensor] = _no_exit_losses


class StageTerms(NamedTuple):
    """The scalars of a loss that compares all stages in one call.

    Attributes:
        names: N names in the log.
        values: ``(N,)``.
    """

    names: Sequence[str]
    values: Tensor

    @classmethod
    def none(cls, logits: Tensor) -> "StageTerms":
        """Return one zero that hangs on ``logits``, for a network without the stages that a loss compares."""
        return cls(["none"], logits.sum().reshape(1) * 0.0)


class Loss(nn.Module):
    """A distillation loss: a function of what student and teacher computed in one step.

    A subclass names in :attr:`requires` what it reads, so that nothing else is built or run, and computes its scalars
    in :meth:`terms`. Weights and schedules live here, never inside the arithmetic.

    Args:
        loss_weight: Factor in the total; 0 means that the loss and whatever only it reads are not built.
        schedule: Config of a schedule (:mod:`kd_mm.losses.schedules`), a factor on top of ``loss_weight``.
        teacher: Name of the teacher that is read; may be left out where there is one.
        stages: Stages that are read, counted from 1; all matched stages by default.
        stage_reduction: ``"sum"`` or ``"mean"`` over the terms.
    """

    #: Subset of :data:`READABLE`. The constructor may narrow it where options make a loss read less.
    requires: frozenset[str] = frozenset()
    #: Subset of :data:`ALL_TASKS`, likewise.
    tasks: frozenset[str] = ALL_TASKS
    #: Why another task cannot use it and what to take there, for a message.
    instead: str = ""
    #: Whether it prepares something on its teacher that holds only while the teacher does not change.
    frozen_teacher: bool = False
    #: Whether it runs layers of its teachers by itself, outside autocast; these are then stored as they are.
    runs_teacher: bool = False
    #: Whether the last stage alone is read by default, instead of all.
    reads_last_stage: bool = False
    #: Whether it is left out, with a line in the log, where the networks' own predictions cannot be compared.
    optional: bool = False
    #: What the exits that it reads may classify (:attr:`kd_mm.models.Exit.output`).
    exit_outputs: frozenset[str] = frozenset({"image"})
    #: Whether it needs classes that exclude each other, so that multi-label classifiers cannot use it.
    exclusive_classes: bool = False
    #: Whether a gradient reaches the student.
    trains_student: bool = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if isinstance(cls.requires, str):
            raise ValueError(f"{cls.__name__}.requires: give a set, frozenset({{{cls.requires!r}}})")
        unknown = sorted(cls.requires - READABLE)
        if unknown:
            raise ValueError(f"{cls.__name__}.requires: {unknown[0]!r} is none of {', '.join(sorted(READABLE))}")

    def __init__(
        self,
        loss_weight: float = 1.0,
        schedule: dict[str, Any] | None = None,
        teacher: str | None = None,
        stages: Sequence[int] | None = None,
        stage_reduction: str = "sum",
    ) -> None:
        super().__init__()
        self.stage_reduction = choice("stage_reduction", stage_reduction, ("sum", "mean"))
        self.loss_weight = loss_weight
        self.schedule: Schedule | None = SCHEDULES.build({**schedule, "_scope_": "kd_mm"}) if schedule else None
        self.teacher = teacher
        self.stages = None if stages is None else tuple(stages)
        #: Names of the teachers that are read; known from :meth:`choose_teachers` on.
        self.teacher_names: tuple[str, ...] = ()
        #: The matched (student, teacher) stages, shallow to deep; known from :meth:`match` on.
        self.matched: Sequence[tuple[Stage, Stage]] = ()
        #: Whether the last stage has an exit beside the network's own logits; known from :meth:`match` on.
        self.exit_on_last = False

    # -- before training, in this order --------------------------------------------------------------------------

    @property
    def needs_teacher(self) -> bool:
        """Whether anything of a teacher is read."""
        through_connectors = {"student.adapted", "student.pooled", "student.deviations"}
        return any(item.startswith("teacher.") or item in through_connectors for item in self.requires)

    @property
    def reads_exits(self) -> bool:
        """Whether it counts the stages of the exits, not those of the feature maps."""
        return bool({item.partition(".")[2] for item in self.requires} & {"stage_logits", "exit_logits", "embeddings"})

    def choose_teachers(self, name: str, teachers: Sequence[str], extra: Sequence[str] = ()) -> None:
        """Settle which teachers are read.

        Args:
            name: The loss's name in the recipe, for messages.
            teachers: Names of the teachers in the config.
            extra: Names of further ones that the recipe brings; read only where ``teacher`` names one.

        Raises:
            ValueError: ``teacher`` names none of them, or none where there are several.
        """
        if not self.needs_teacher:
            return
        known = list(teachers) if self.teacher is None else [*teachers, *extra]
        if not known:
            raise ValueError(
                f"loss {name!r} reads a teacher, but the config has none: give teacher=dict(config=, checkpoint=)"
            )
        if self.teacher is None and len(known) > 1:
            raise ValueError(
                f"loss {name!r} reads one teacher, the config has {', '.join(known)}: name one by "
                f"model.recipe.losses.{name}.teacher={known[0]}, or, of classifiers, take a recipe that reads several "
                "(multi_kd, ca_mkd)"
            )
        self.teacher_names = (choice(f"loss {name!r}: teacher", self.teacher or known[0], known),)

    def match(self, pairs: Sequence[tuple[Stage, Stage]], exit_on_last: bool = False) -> None:
        """Take note of the matched stages, and whether the last one has an exit of its own."""
        self.matched, self.exit_on_last = tuple(pairs), exit_on_last

    def stage_numbers(self, num_stages: int) -> tuple[int, ...]:
        """Return the stages that are read, of ``num_stages`` matched ones.

        Raises:
            ValueError: A stage in the config does not exist, or is no number.
        """
        first = num_stages if self.reads_last_stage else 1
        chosen = self.stages or tuple(range(first, num_stages + 1))
        wrong = [stage for stage in chosen if stage not in range(1, num_stages + 1)]
        if wrong:
            raise ValueError(
                f"{type(self).__name__}: stages={list(chosen)}, but the matched stages are 1..{num_stages}"
            )
        return chosen

    def incomparable(self, student: nn.Module, teacher: nn.Module) -> str:
        """Return why it cannot compare two networks (the error of :meth:`extra_taps`), or ''; asked where optional."""
        try:
            self.extra_taps(student, teacher)
        except ValueError as error:
            return str(error)
        return ""

    def extra_taps(self, student: nn.Module, teacher: nn.Module) -> tuple[Sequence[str], Sequence[str]]:
        """Return the taps (:mod:`kd_mm.stages.tap`) of student and teacher that it reads as ``taps``."""
        return (), ()

    def leave_out(self, stages: Collection[int]) -> bool:
        """Take note of stages at which a teacher's exit is at chance.

        Returns:
            Whether it compares them no more; by default it does.
        """
        return False

    def setup(self, context: LossContext) -> None:
        """Build what depends on measured widths; called once, before the optimizer exists. The default has nothing."""

    def preparation(self) -> Preparation | None:
        """Return what has to be computed on each of its teachers before training; the default is nothing."""
        return None

    def load_preparation(self, results: Mapping[str, Any]) -> None:
        """Read what :meth:`preparation` asked for from now on; ``results`` are by teacher."""
        raise NotImplementedError(f"{type(self).__name__} asks for a preparation and does not read its results")

    def expect_samples(self, num_samples: int) -> None:
        """Take note of the number of training samples, before training and before a checkpoint is loaded."""

    # -- in a step -----------------------------------------------------------------------------------------------

    def weight(self, progress: Progress) -> float:
        """Return the weight in force at this point of the run."""
        return self.loss_weight * (self.schedule(progress) if self.schedule else 1.0)

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor] | StageTerms:
        """Return the unweighted scalars, by the name of their stage or pair of stages, or ``{"all": value}``."""
        raise TypeError(f"{type(self).__name__} defines no terms()")

    def evaluate(self, student: Observation, teachers: Mapping[str, Observation]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the unweighted loss and, without gradient, its terms; computed outside autocast.

        ``student`` comes with gradient, ``teachers`` are by name.

        Raises:
            StepError: :meth:`terms` reads something that :attr:`requires` does not name, or returns no numbers.
        """
        name = self.teacher_names[0] if self.teacher_names else ""
        maps = student.connected.get(name, Connected())
        own = replace(student, adapted=maps.adapted, pooled=maps.pooled, deviations=maps.deviations)
        try:
            with torch.autocast(student.device_type, enabled=False):
                return self._reduced(self.terms(own, teachers.get(name, Observation())))
        except (AttributeError, TypeError) as error:
            if "NoneType" not in str(error):
                raise
            listed = ", ".join(sorted(self.requires)) or "nothing"
            raise StepError(
                f"{type(self).__name__}.terms reads what requires does not name (it names {listed}): {error}"
            ) from error

    def forward(self, student: Observation, teacher: Any = None) -> Tensor:
        """Return the unweighted loss of the arguments of :meth:`terms`, a scalar."""
        with torch.autocast(student.device_type, enabled=False):
            return self._reduced(self.terms(student, teacher or Observation()))[0]

    def _reduced(self, terms: dict[str, Tensor] | StageTerms) -> tuple[Tensor, dict[str, Tensor]]:
        if isinstance(terms, dict):
            names, parts = list(terms), list(terms.values())
            if not parts or not all(isinstance(part, Tensor) and part.numel() == 1 for part in parts):
                kinds = {
                    name: tuple(p.shape) if isinstance(p, Tensor) else type(p).__name__ for name, p in terms.items()
                }
                raise StepError(f"{type(self).__name__}.terms returns {kinds}: give tensors of one number by name")
            values = torch.stack(parts) if len(parts) > 1 else parts[0].reshape(1)
        elif isinstance(terms, StageTerms):
            names, values = list(terms.names), terms.values
        else:
            kind, example = type(terms).__name__, "{'all': value}"
            raise StepError(f"{type(self).__name__}.terms returns {kind}, not a dict of numbers by name, as {example}")
        total = values.sum() if len(names) > 1 else values.reshape(())
        total = total / len(names) if self.stage_reduction == "mean" else total
        return total, dict(zip(names, values.detach().unbind(), strict=True))
