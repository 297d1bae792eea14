"""Exits that were trained together with a network: their description in its checkpoint, and loading them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kd_mm.stages.stage import Stage
from kd_mm.utils.checkpoint import distill_state_dict, mismatch

if TYPE_CHECKING:
    from kd_mm.distillers.teacher import Teacher

#: What to do about exits that do not fit.
_REMEDY = (
    "train the teacher with exits of the same type, options and stages (kd-mm train CONFIG --with-exits), or set "
    "model.recipe.teacher_exits.mode=pretrained to train new ones on the frozen teacher"
)


@dataclass(frozen=True)
class JointExits:
    """The exits in the checkpoint of a network that was trained as a Distiller's student.

    Attributes:
        weights: As stored under ``distill.exits.``; none in the checkpoint of a plain network.
        type: Name of their class, where the checkpoint names it.
        taps: Tap of each exit's stage by the number that it has in ``weights``, likewise.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    type: str = ""
    taps: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> JointExits:
        """Return the exits that a checkpoint holds."""
        described = (checkpoint.get("meta") or {}).get("exits") or {}
        kind = str(described.get("config", {}).get("type", ""))
        return cls(distill_state_dict(checkpoint, "exits."), kind.rpartition(".")[2], described.get("taps", {}))

    def at(self, taps: Mapping[str, str]) -> dict[str, Tensor]:
        """Return the weights of the exits at some taps, given by the stage's number, under these numbers.

        Networks of unlike depth count their stages from the deepest, so a stage may have had another number while the
        exits were trained.
        """
        stored = {tap: number for number, tap in self.taps.items()}
        found = {}
        for number, tap in taps.items():
            prefix = f"{stored.get(tap) if self.taps else number}."
            names = [name for name in self.weights if name.startswith(prefix)]
            found.update({f"{number}.{name.removeprefix(prefix)}": self.weights[name] for name in names})
        return found


def describe_exits(config: Mapping[str, Any], stages: Mapping[int, Stage], numbers: list[str]) -> dict[str, Any]:
    """Return the description of the exits that a checkpoint holds, in types that load safely."""
    return {"config": json.loads(json.dumps(config)), "taps": {number: stages[int(number)].tap for number in numbers}}


def load_joint_exits(teacher: Teacher, config: Mapping[str, Any], required: bool) -> None:
    """Load the exits that a teacher's checkpoint holds, if it holds any, into its untrained ones.

    ``config`` is that of the recipe's exits; ``required``, whether it has to hold some.

    Raises:
        ValueError: It holds none and has to, or they are not those of the recipe.
    """
    joint, start = teacher.joint_exits, f"teacher {teacher.name!r}: its checkpoint ({teacher.checkpoint}) "
    if not joint.weights:
        if required:
            raise ValueError(
                f"{start}holds no exits: train it by kd-mm train CONFIG --with-exits, or set "
                "model.recipe.teacher_exits.mode=auto, which trains exits on the frozen teacher"
            )
        return
    taps = {number: teacher.exit_stages[int(number)].tap for number in teacher.exits}
    missing = [tap for tap in taps.values() if joint.taps and tap not in joint.taps.values()]
    weights, kind = joint.at(taps), str(config["type"]).rpartition(".")[2]
    if joint.type and joint.type != kind:
        problem = f"they are of type {joint.type}, the recipe's of type {kind}"
    elif missing:
        problem = f"they are at {', '.join(joint.taps.values())}, the recipe needs one at {missing[0]}"
    else:
        problem = mismatch(teacher.exits.state_dict(), weights)
    if problem:
        raise ValueError(f"{start}holds exits that are not those of the recipe: {problem}; {_REMEDY}")
    teacher.load_exits(weights, f"joint training in {teacher.checkpoint}")
