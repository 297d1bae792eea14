"""What a set of losses reads of student and teachers, resolved once at build."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from kd_mm.losses import Loss

_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Reads:
    """What losses read of one network; stages by number.

    Attributes:
        features: Stages whose maps are read.
        pooled: Stages whose spatial means are read; for the student those after a connector.
        deviations: Those whose deviations over the positions are read, likewise.
        exits: Stages that have an exit.
        stage_logits: Stages whose logits are read.
        embeddings: Those whose exit's embedding is read.
        connectors: Stages with a connector from the student to this teacher; for the student those to any teacher.
        adapted: Those of them whose maps are read.
        logits: Whether the network's own logits are read.
    """

    features: frozenset[int] = _NONE
    pooled: frozenset[int] = _NONE
    deviations: frozenset[int] = _NONE
    exits: frozenset[int] = _NONE
    stage_logits: frozenset[int] = _NONE
    embeddings: frozenset[int] = _NONE
    connectors: frozenset[int] = _NONE
    adapted: frozenset[int] = _NONE
    logits: bool = False

    @classmethod
    def of(cls, losses: Collection[Loss], side: str, num_stages: int, num_exits: int, exit_on_last: bool) -> Reads:
        """Return what some losses read on one side, ``"student"`` or ``"teacher"``; see :meth:`Requirements.of`."""

        def stages(item: str, count: int = num_stages) -> frozenset[int]:
            readers = [loss for loss in losses if item in loss.requires]
            return frozenset(number for loss in readers for number in loss.stage_numbers(count))

        # Without an exit on the last stage its stage logits are the network's own logits.
        own = _NONE if exit_on_last else frozenset({num_exits})
        stage_logits, embeddings = (stages(f"{side}.{item}", num_exits) for item in ("stage_logits", "embeddings"))
        items = {item for loss in losses for item in loss.requires}
        return cls(
            features=stages(f"{side}.features"),
            pooled=stages(f"{side}.pooled"),
            deviations=stages(f"{side}.deviations"),
            exits=(stage_logits | embeddings) - own,
            stage_logits=stage_logits,
            embeddings=embeddings - own,
            connectors=stages("student.adapted") | stages("student.pooled") | stages("student.deviations"),
            adapted=stages("student.adapted"),
            logits=bool(stage_logits & own or {f"{side}.logits", f"{side}.classifier"} & items),
        )


@dataclass(frozen=True)
class Requirements:
    """What has to exist for a set of losses.

    Attributes:
        reads: Everything that the losses require.
        student: Of the student.
        teachers: Of each teacher, by name.
        exits_of: Stages whose exits of the student a loss reads, by its name.
        connectors_of: Stages whose connectors a loss reads, by its name.
    """

    reads: frozenset[str]
    student: Reads
    teachers: Mapping[str, Reads]
    exits_of: Mapping[str, frozenset[int]]
    connectors_of: Mapping[str, frozenset[int]]

    @classmethod
    def of(
        cls,
        losses: Mapping[str, Loss],
        num_stages: int,
        num_exits: int,
        exit_on_last: bool,
        counts_classes: bool = True,
    ) -> Requirements:
        """Derive the requirements of some losses over matched stages.

        Args:
            losses: By name.
            num_stages: Number of matched stages whose maps can be compared.
            num_exits: Number of matched stages that can have an exit.
            exit_on_last: Whether the last stage has an exit beside the network's own logits.
            counts_classes: Whether only the student's own logits give the number of classes of its exits.
        """

        def reads(chosen: Collection[Loss], side: str) -> Reads:
            return Reads.of(chosen, side, num_stages, num_exits, exit_on_last)

        everything = list(losses.values())
        student = reads(everything, "student")
        return cls(
            reads=frozenset(item for loss in everything for item in loss.requires),
            student=replace(student, logits=student.logits or (counts_classes and bool(student.exits))),
            teachers={
                name: reads([loss for loss in everything if name in loss.teacher_names], "teacher")
                for name in sorted({name for loss in everything for name in loss.teacher_names})
            },
            exits_of={name: reads([loss], "student").exits for name, loss in losses.items()},
            connectors_of={name: reads([loss], "student").connectors for name, loss in losses.items()},
        )

    @property
    def student_stages(self) -> list[int]:
        """The student's stages whose maps losses read, through connectors too."""
        return sorted(self.student.features | self.student.connectors)
