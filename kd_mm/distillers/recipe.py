"""Reading a recipe: which losses are active, and what has to exist for them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kd_mm.losses import Loss
from kd_mm.models.exits import Exit
from kd_mm.registry import MODELS
from kd_mm.utils.contexts import isolated_rng
from kd_mm.utils.suggest import choice, nearest


@dataclass
class Recipe:
    """A recipe with its defaults.

    Attributes:
        losses: Loss configs by name.
        exits: Config of the auxiliary exits, the same type on student and teacher.
        exit_on_last: Whether the last stage has an exit beside the network's logits; by default in detection.
        connectors: Config of the connectors.
        teacher_exits: How the teacher's exits come to be: ``mode`` is ``"pretrained"`` (frozen teacher, exits trained
            first), ``"joint"`` (trained with the teacher, read from its checkpoint), ``"auto"`` (joint where the
            checkpoint holds exits, else pretrained) or ``"online"`` (trained during distillation on detached features);
            the other keys are for :class:`kd_mm.preparation.ExitTraining`.
        stage_align: ``"from_deep"``, ``"from_shallow"`` or pairs ``[(student, teacher), ...]``, from 1. Of necks the
            levels of equal stride are paired, but for given pairs.
        student_loss_weight: Factor of the student's own losses.
        stage_source: Whose maps losses on features compare where the Distiller's ``stages`` does not name any: the
            stages of the ``"backbone"``, or the levels that the ``"neck"`` of a detector gives; those of the backbone
            where a network has no neck with several levels. Exits are on stages of the backbone in both cases.
        transform: Config of a :class:`kd_mm.losses.LearningSimplifier` of the teachers' logits.
        teachers: Configs of teachers that the recipe itself brings, by the name under which its losses call them
            (:class:`kd_mm.distillers.EMATeacher`); a loss that names none means one of the Distiller's.
        balance: ``"gradnorm"`` scales losses once, by the norms of their gradients on the student
            (:class:`kd_mm.distillers.balance.Balance`).
        shares: By loss, its norm then over that of the student's own loss; losses without a share keep their weight.
        joined: Keys of the recipe that count where it is joined to others (``--distiller a+b``); all by default.
    """

    losses: dict[str, Any] = field(default_factory=dict)
    exits: dict[str, Any] = field(default_factory=lambda: {"type": "kd_mm.SepConvExit"})
    exit_on_last: bool = False
    connectors: dict[str, Any] = field(default_factory=lambda: {"type": "kd_mm.ConvConnector"})
    teacher_exits: dict[str, Any] = field(default_factory=lambda: {"mode": "auto"})
    stage_align: str | Sequence[tuple[int, int]] = "from_deep"
    student_loss_weight: float = 1.0
    stage_source: str = "backbone"
    transform: dict[str, Any] | None = None
    teachers: dict[str, Any] = field(default_factory=dict)
    balance: str | None = None
    shares: dict[str, float] = field(default_factory=dict)
    joined: Sequence[str] | None = None

    @classmethod
    def read(cls, config: Mapping[str, Any] | None, exit_on_last: bool = False) -> Recipe:
        """Check the keys of a recipe config.

        Args:
            config: The recipe; a key that is ``None`` is left out.
            exit_on_last: What counts where the recipe leaves it out.

        Raises:
            ValueError: An unknown key, a loss name that the engine would misread, or an unknown teacher exit mode.
        """
        config = {key: value for key, value in (config or {}).items() if value is not None}
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
                raise ValueError(f"recipe: loss name {name!r} clashes with the log key 'loss_{name}'; choose another")
        _check_transform(config.get("transform"), list(named))
        recipe = cls(**{"exit_on_last": exit_on_last, **config})
        choice("recipe: teacher_exits mode", recipe.exit_mode, ("auto", "pretrained", "joint", "online"))
        if recipe.balance is not None:
            choice("recipe: balance", recipe.balance, ("gradnorm",))
        if bool(recipe.shares) != bool(recipe.balance):
            raise ValueError("recipe: balance='gradnorm' and shares=dict(LOSS=0.5, ...) go together: give both or none")
        choice("recipe: stage_source", recipe.stage_source, ("backbone", "neck"))
        return recipe

    @property
    def exit_mode(self) -> str:
        """How the teachers' exits come to be; a file of exits that the config names counts as ``"pretrained"``."""
        mode = self.teacher_exits.get("mode", "auto")
        return "pretrained" if mode == "auto" and self.teacher_exits.get("checkpoint") else mode

    @property
    def exit_type(self) -> type[Exit]:
        """The type of the exits.

        Raises:
            ValueError: There is no such type.
        """
        kind: type[Exit] | None = MODELS.get(self.exits["type"])
        if kind is None:
            raise ValueError(f"recipe: exits type {self.exits['type']!r} is not registered")
        return kind

    def build_losses(self, teachers: Sequence[str], seed: int) -> dict[str, Loss]:
        """Build the losses whose weight is not zero, each under a random state of its own.

        Args:
            teachers: Names of the teachers.
            seed: Seed of the private random states.

        Raises:
            ValueError: A loss is no :class:`Loss`; it names a teacher that does not exist, or none where there are
                several; a temperature that is not above 0, a weight below 0.
        """
        losses = {}
        for name, config in sorted(self.losses.items()):
            if config is None or config.get("loss_weight", 1.0) == 0:
                continue
            given = MODELS.get(config["type"]) if isinstance(config["type"], str) else config["type"]
            if inspect.isclass(given) and not issubclass(given, Loss):
                raise ValueError(f"recipe: losses.{name}: {config['type']} does not derive from kd_mm.losses.Loss")
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


def reads_stages(losses: Mapping[str, Loss]) -> bool:
    """Return whether any loss reads anything of stages."""
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
