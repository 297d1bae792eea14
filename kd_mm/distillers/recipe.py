"""Reading a recipe: which losses are active, and what has to exist for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kd_mm.losses import Loss
from kd_mm.registry import MODELS
from kd_mm.utils.random_state import isolated_rng
from kd_mm.utils.suggest import nearest

TEACHER_EXIT_MODES = ("pretrained", "joint", "online")


@dataclass
class Recipe:
    """A recipe with its defaults.

    Attributes:
        losses: Loss configs by name.
        exits: Config of the auxiliary exits, the same type on student and teacher.
        exit_on_last: Whether the last stage gets an exit of its own beside the network's answer; by default as the task
            says (in detection it does).
        connectors: Config of the connectors.
        teacher_exits: How the teacher's exits come to be: ``mode`` is ``"pretrained"`` (frozen teacher, exits trained
            first), ``"joint"`` (trained with the teacher, read from its checkpoint) or ``"online"`` (trained during
            distillation on detached features); the other keys are for :class:`kd_mm.preparation.ExitTraining`.
        stage_align: ``"from_deep"``, ``"from_shallow"`` or pairs ``[(student, teacher), ...]``, from 1.
        student_loss_weight: Factor of the student's own losses.
        stage_source: What the stages are where the Distiller's ``stages`` does not name them: the ``"backbone"``'s, or
            the levels that the ``"neck"`` of a detector gives.
        transform: Config of a :class:`kd_mm.losses.ResponseTransform` of the teachers' responses.
        teachers: Configs of teachers that the recipe itself brings, by the name under which its losses call them
            (:class:`kd_mm.distillers.EMATeacher`); a loss that names none means one of the Distiller's.
        joined: Keys of the recipe that count where it is joined to others (``--distiller a+b``); all by default.
    """

    losses: dict[str, Any] = field(default_factory=dict)
    exits: dict[str, Any] = field(default_factory=lambda: {"type": "kd_mm.SepConvExit"})
    exit_on_last: bool | None = None
    connectors: dict[str, Any] = field(default_factory=lambda: {"type": "kd_mm.ConvConnector"})
    teacher_exits: dict[str, Any] = field(default_factory=lambda: {"mode": "pretrained"})
    stage_align: str | Sequence[tuple[int, int]] = "from_deep"
    student_loss_weight: float = 1.0
    stage_source: str = "backbone"
    transform: dict[str, Any] | None = None
    teachers: dict[str, Any] = field(default_factory=dict)
    joined: Sequence[str] | None = None

    @classmethod
    def read(cls, config: Mapping[str, Any] | None) -> Recipe:
        """Check the keys of a recipe config.

        Raises:
            ValueError: An unknown key, a loss name that the engine would misread, or an unknown teacher exit mode.
        """
        config = dict(config or {})
        known = list(cls.__dataclass_fields__)
        for key in config:
            if key not in known:
                raise ValueError(f"recipe: unknown key {key!r}{nearest(key, known)}")
        named = config.get("losses") or {}
        typed = [name for name, loss in named.items() if loss and "type" in loss]
        for name, loss in named.items():
            if loss is not None and "type" not in loss:
                raise ValueError(f"recipe: loss {name!r} has no type{nearest(name, typed)}")
            if "loss" in name or "." in name:
                raise ValueError(
                    f"recipe: loss name {name!r} must not contain 'loss' or a dot: it is logged as 'loss_{name}', and "
                    "the engine sums whatever has 'loss' in its name"
                )
            if name in ("student", "transform") or name.startswith(("exits_of_", "transform_")):
                raise ValueError(f"recipe: loss name {name!r} is taken by the log key 'loss_{name}'; choose another")
        _check_transform(config.get("transform"), list(named))
        recipe = cls(**config)
        mode = recipe.teacher_exits.get("mode", "pretrained")
        if mode not in TEACHER_EXIT_MODES:
            raise ValueError(f"recipe: teacher_exits mode {mode!r} is unknown{nearest(mode, TEACHER_EXIT_MODES)}")
        if recipe.stage_source not in ("backbone", "neck"):
            raise ValueError(f"recipe: stage_source={recipe.stage_source!r} is unknown; choose 'backbone' or 'neck'")
        return recipe

    def build_losses(self, teachers: Sequence[str], seed: int) -> dict[str, Loss]:
        """Build the losses whose weight is not zero, each under a random state of its own.

        Args:
            teachers: Names of the teachers.
            seed: Seed of the private random states.

        Raises:
            ValueError: A loss names a teacher that does not exist, or none where there are several; a temperature
                that is not above 0, a weight below 0.
        """
        losses = {}
        for name, config in sorted(self.losses.items()):
            if config is None or config.get("loss_weight", 1.0) == 0:
                continue
            with isolated_rng(f"loss/{name}", seed):
                loss: Loss = MODELS.build(dict(config))
            temperature = config.get("temperature")
            if isinstance(temperature, int | float) and not 0 < temperature < math.inf:
                raise ValueError(f"recipe: losses.{name}: temperature={temperature} must be above 0")
            if not 0 <= loss.loss_weight < math.inf:
                raise ValueError(f"recipe: losses.{name}: loss_weight={loss.loss_weight} must be 0 or more, and finite")
            loss.choose_teachers(name, teachers, sorted(self.teachers))
            losses[name] = loss
        return losses


@dataclass(frozen=True)
class Plan:
    """What has to exist, by stage numbers, for a set of losses.

    Attributes:
        student_exits: Stages of the student that need an exit.
        teacher_exits: Stages that need an exit, by teacher.
        connectors: Stages that need a connector, by teacher.
        student_features: Stages of the student that are read, exits and connectors included.
        teacher_features: Stages that are read, by teacher.
        student_answer: Whether the student's own logits are read.
        teacher_answer: Whether the teacher's own logits are read, by teacher.
    """

    student_exits: frozenset[int] = frozenset()
    teacher_exits: Mapping[str, frozenset[int]] = field(default_factory=dict)
    connectors: Mapping[str, frozenset[int]] = field(default_factory=dict)
    student_features: frozenset[int] = frozenset()
    teacher_features: Mapping[str, frozenset[int]] = field(default_factory=dict)
    student_answer: bool = False
    teacher_answer: Mapping[str, bool] = field(default_factory=dict)

    @classmethod
    def of(cls, losses: Mapping[str, Loss], num_stages: int, exit_on_last: bool, counts_classes: bool = True) -> Plan:
        """Derive the plan of some losses over ``num_stages`` matched stages.

        Args:
            losses: By name.
            num_stages: Number of matched stages.
            exit_on_last: Whether the last stage has an exit beside the network's answer.
            counts_classes: Whether only the network's own answer tells how many classes its exits have.
        """
        own = frozenset() if exit_on_last else frozenset({num_stages})

        def stages(item: str, teacher: str | None = None) -> frozenset[int]:
            chosen: set[int] = set()
            for loss in losses.values():
                if item in loss.requires and (teacher is None or teacher in loss.teacher_names):
                    chosen |= set(loss.stage_numbers(num_stages))
            return frozenset(chosen)

        def answer(side: str, teacher: str | None = None) -> bool:
            direct = any(
                bool(loss.requires & {f"{side}.logits", f"{side}.classifier"})
                and (teacher is None or teacher in loss.teacher_names)
                for loss in losses.values()
            )
            return direct or bool(stages(f"{side}.stage_logits", teacher) & own)

        names = sorted({name for loss in losses.values() if loss.needs_teacher for name in loss.teacher_names})
        responses = stages("student.stage_logits") | stages("student.embeddings")
        connectors = {name: stages("student.adapted", name) for name in names}
        teacher_exits = {name: stages("teacher.stage_logits", name) - own for name in names}
        return cls(
            student_exits=responses - own,
            teacher_exits=teacher_exits,
            connectors=connectors,
            student_features=stages("student.features").union(responses - own, *connectors.values()),
            teacher_features={
                name: stages("teacher.features", name) | stages("teacher.pooled", name) | teacher_exits[name]
                for name in names
            },
            student_answer=answer("student") or (counts_classes and bool(responses)),
            teacher_answer={name: answer("teacher", name) for name in names},
        )


def exits_are_regional(recipe: Recipe) -> bool:
    """Return whether the exits of a recipe answer for regions of an image."""
    return bool(getattr(MODELS.get(recipe.exits["type"]), "regional", False))


def reads_stages(losses: Mapping[str, Loss]) -> bool:
    """Return whether any loss reads anything but the networks' own answers."""
    kinds = {item.partition(".")[2] for loss in losses.values() for item in loss.requires}
    return bool(kinds - {"logits", "targets", "sample_indices", "taps", "assignment"})


def _check_transform(transform: Mapping[str, Any] | None, losses: Sequence[str]) -> None:
    if transform is None:
        return
    if not isinstance(transform, Mapping) or "type" not in transform:
        raise ValueError(f"recipe: transform={transform!r} has no type; e.g. dict(type='kd_mm.LearningSimplifier')")
    for name in transform.get("losses") or ():
        if name not in losses:
            raise ValueError(f"recipe: transform names the loss {name!r}{nearest(name, losses)}")
