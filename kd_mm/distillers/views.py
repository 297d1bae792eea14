"""What one loss sees of student and teachers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from kd_mm.losses import Loss
from kd_mm.losses.observation import Observation


def views(
    name: str,
    loss: Loss,
    student: Observation,
    connected: Mapping[str, Mapping[int, Tensor]],
    teachers: Mapping[str, Observation],
    changed: Mapping[tuple[str, str], Observation],
) -> tuple[Observation, Observation | None]:
    """Return the observations of student and teacher; of all teachers where the loss reads all.

    Args:
        name: Name of the loss.
        loss: The loss.
        student: What the student showed, without connectors.
        connected: The student's maps after the connectors to a teacher, by teacher.
        teachers: What the teachers showed.
        changed: What they show after the recipe's transform, by loss and teacher.
    """

    def of(teacher: str) -> tuple[Observation, Observation | None]:
        return (
            replace(student, adapted=connected.get(teacher, {})),
            changed.get((name, teacher), teachers.get(teacher)),
        )

    if not loss.all_teachers:
        return of(loss.teacher or "")
    pairs = {teacher: of(teacher) for teacher in loss.taught_by}
    team = {teacher: theirs for teacher, (_, theirs) in pairs.items() if theirs is not None}
    return replace(student, team={teacher: own for teacher, (own, _) in pairs.items()}), Observation(team=team)
