"""The objective of a distillation: exits, connectors and losses as one module; recorded tensors in, loss terms out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.distillers.balance import Balance
from kd_mm.distillers.builder import Networks
from kd_mm.distillers.requirements import Requirements
from kd_mm.losses import LearningSimplifier, Loss, Progress
from kd_mm.losses.functional import channel_deviations, wide_dtype
from kd_mm.losses.observation import Connected, Observation, StageLogits
from kd_mm.models.exits import like_parameters
from kd_mm.tasks import Batch


class Objective(nn.Module):
    """Turns what student and teachers computed in a step into loss terms.

    It is the Distiller's submodule ``distill``: its parameters are trained with the student and stored under that
    prefix. A part without entries has no keys there.

    Args:
        networks: Student and teachers.
        requirements: What the losses read.
        losses: By name.
        exits: Exits of the student, by stage.
        connectors: Connectors by teacher and stage.
        grids: What averages a stage's map down to the last stage's resolution, by stage; none where it has it.
        teacher_exits: Exits of teachers that are trained during the distillation (mode ``online``), likewise.
        transform: Adapters of teacher logits, by teacher.
    """

    def __init__(
        self,
        networks: Networks,
        requirements: Requirements,
        losses: Mapping[str, Loss],
        exits: nn.ModuleDict,
        connectors: nn.ModuleDict,
        grids: nn.ModuleDict,
        teacher_exits: nn.ModuleDict,
        transform: nn.ModuleDict,
    ) -> None:
        super().__init__()
        self.requirements, self.reader, self.last = requirements, networks.reader, networks.last
        #: The student's stages whose maps are read, and those that have an exit, by number.
        self.stages = {i: networks.matched[i - 1] for i in requirements.student_stages}
        self.exit_stages = {i: networks.exit_stages[i - 1] for i in requirements.student.exits}
        self.exits, self.connectors, self.grids, self.teacher_exits = exits, connectors, grids, teacher_exits
        self.losses, self.transform = nn.ModuleDict(losses), transform
        self.balance = Balance(losses, networks.recipe.shares)
        self._evaluate: Callable[..., dict[str, tuple[Tensor, dict[str, Tensor]]]] = Objective.values

    @torch.compiler.disable  # changes from step to step
    def weights(self, progress: Progress) -> dict[str, float]:
        """Return the weights of the losses in force at this point of the run, by name; those at zero are left out."""
        weights = {name: loss.weight(progress) * self.balance.scale(name) for name, loss in self._losses()}
        return {name: weight for name, weight in weights.items() if weight != 0}

    def teachers_of(self, names: Iterable[str]) -> list[str]:
        """Return the teachers that some losses read."""
        active = set(names)
        return sorted({teacher for name, loss in self._losses() if name in active for teacher in loss.teacher_names})

    def forward(
        self, batch: Batch, teachers: Mapping[str, Observation], weights: Mapping[str, float], progress: Progress
    ) -> dict[str, Tensor]:
        """Return the terms of a step by their names in the log.

        These are ``loss_<name>`` for each loss in force, weighted; ``<name>`` and ``<name>.<part>``, unweighted and
        without gradient; likewise of the adapters of teacher logits. The batch is the student's after its forward pass.
        """
        if not weights:
            return {}
        teachers = {name: self._with_online_exits(name, teacher, batch) for name, teacher in teachers.items()}
        adapted, terms = self._adapt(teachers, batch, weights, progress)
        # Weights and progress change from step to step and stay out of what is compiled.
        for name, (value, parts) in self._evaluate(self, batch, teachers, adapted, tuple(weights)).items():
            terms[f"loss_{name}"] = value if weights[name] == 1.0 else weights[name] * value
            terms[name] = value.detach()
            if len(parts) > 1:
                terms.update({f"{name}.{part}": scalar for part, scalar in parts.items()})
        return terms

    def values(
        self,
        batch: Batch,
        teachers: Mapping[str, Observation],
        adapted: Mapping[str, Mapping[str, Observation]],
        names: Sequence[str],
    ) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
        """Run exits, connectors and the named losses; return the unweighted value and the parts of each loss.

        ``adapted``, by loss and teacher, is read instead of what the teachers computed.
        """
        student = self.observe(batch, teachers, names)
        return {
            name: loss.evaluate(student, {**teachers, **adapted.get(name, {})})
            for name, loss in self._losses()
            if name in names
        }

    def compile_with(self, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Compile :meth:`values` by a function that returns the compiled form of another."""
        self._evaluate = compiled(Objective.values)

    def observe(self, batch: Batch, teachers: Iterable[str] = (), losses: Iterable[str] | None = None) -> Observation:
        """Return what losses read of the student; each exit and connector runs at most once.

        Args:
            batch: The student's batch after its forward pass.
            teachers: Names of the teachers to whose connectors the maps go.
            losses: Names of the losses; exits and connectors that none of them reads do not run. All by default.
        """
        maps = {i: stage.to_map(batch.records[stage.tap]) for i, stage in self.stages.items()}
        exits: Any = self.exits
        needs = self.requirements.student
        read = needs.exits
        if losses is not None:
            read = frozenset().union(*(self.requirements.exits_of.get(name, ()) for name in losses))
        embeddings: dict[int, Tensor] = {}
        stage_logits: dict[int, Tensor] = {}
        for i, layer in ((int(key), layer) for key, layer in exits.items() if int(key) in read):
            feature = self.exit_stages[i].to_map(batch.records[self.exit_stages[i].tap])
            if i in needs.embeddings:
                embeddings[i] = layer.embed(feature)
                stage_logits[i] = layer.fc(embeddings[i])
            else:
                stage_logits[i] = layer(feature)
        logits = self.reader.read(batch.records) if self.reader else None
        if logits is not None and self.last:
            stage_logits[self.last] = logits
        return Observation(
            features=maps,
            connected={name: self._connect(name, maps, losses) for name in teachers if name in self.connectors},
            stage_logits=StageLogits.of(stage_logits) if stage_logits and needs.stage_logits else None,  # type: ignore[arg-type]
            embeddings=embeddings,
            logits=logits,  # type: ignore[arg-type] # None where no loss requires it
            targets=batch.targets,
            valid_classes=batch.valid_classes,
            assignment=batch.assignment,
            sample_indices=batch.sample_indices,  # type: ignore[arg-type]
            taps=batch.records,
        )

    def _connect(self, teacher: str, maps: Mapping[int, Tensor], losses: Iterable[str] | None) -> Connected:
        """Return what the connectors to a teacher give at the stages that some losses read, all by default."""
        connectors: Any = self.connectors[teacher]
        read = {int(i) for i in connectors}
        if losses is not None:
            chosen = set(losses)
            names = [name for name, loss in self._losses() if name in chosen and teacher in loss.teacher_names]
            read &= frozenset().union(*(self.requirements.connectors_of.get(name, ()) for name in names))
        as_map, student = self.requirements.teachers[teacher].adapted, self.requirements.student
        adapted: dict[int, Tensor] = {}
        pooled: dict[int, Tensor] = {}
        deviations: dict[int, Tensor] = {}
        for i in sorted(read):
            coarse = i not in as_map and str(i) in self.grids
            connected = connectors[str(i)](self.grids[str(i)](maps[i]) if coarse else maps[i])
            if i in as_map:
                adapted[i] = connected
            if i in student.pooled:
                pooled[i] = connected.mean(dim=(2, 3), dtype=wide_dtype(connected))
            if i in student.deviations:
                deviations[i] = channel_deviations(connected)
        return Connected(adapted, pooled, deviations)

    def _with_online_exits(self, name: str, teacher: Observation, batch: Batch) -> Observation:
        """Run the exits that are trained on a teacher's maps; only their own loss gets logits with a gradient."""
        if name not in self.teacher_exits:
            return teacher
        exits: Any = self.teacher_exits[name]
        logits = StageLogits.of(
            {int(i): layer(like_parameters(teacher.exit_maps[int(i)], layer)) for i, layer in exits.items()}
        )
        constant = {i: one.detach() for i, one in logits.items()}
        return replace(
            teacher, exit_logits=logits, stage_logits=StageLogits.of({**constant, **(teacher.stage_logits or {})})
        )

    def _adapt(
        self,
        teachers: Mapping[str, Observation],
        batch: Batch,
        weights: Mapping[str, float],
        progress: Progress,
    ) -> tuple[dict[str, dict[str, Observation]], dict[str, Tensor]]:
        """Return adapted teacher observations by loss and teacher, and the adapters' own terms."""
        adapted: dict[str, dict[str, Observation]] = {}
        terms: dict[str, Tensor] = {}
        images = {} if batch.sampled is None else {"final": batch.sampled[:, 0].detach()}
        for name, adapter in self._adapters():
            served = [key for key, loss in self._losses() if name in loss.teacher_names and adapter.serves(key)]
            served = [key for key in served if key in weights]
            if name not in teachers or not served:
                continue
            changed, logged, penalty = adapter.adapt(teachers[name], progress, batch.targets, images)
            label = self._label(name)
            terms.update({f"{label}.{term}": value.detach() for term, value in logged.items()})
            if penalty is not None:
                terms[f"loss_{label}"] = penalty
            for key in served:
                adapted.setdefault(key, {})[name] = changed
        return adapted, terms

    def watch(self, terms: Mapping[str, float]) -> None:
        """Let each adapter look at its own terms of a step that is logged."""
        for name, adapter in self._adapters():
            label = f"{self._label(name)}."
            adapter.watch({key.removeprefix(label): value for key, value in terms.items() if key.startswith(label)})

    def zero_of_parameters(self) -> Tensor | None:
        """Return a zero that depends on every trained parameter, ``None`` without any."""
        parameters = [parameter.flatten() for parameter in self.parameters() if parameter.requires_grad]
        return 0.0 * torch.cat(parameters).sum() if parameters else None

    def _losses(self) -> Iterable[tuple[str, Loss]]:
        losses: Any = self.losses
        return losses.items()

    def _adapters(self) -> Iterable[tuple[str, LearningSimplifier]]:
        adapters: Any = self.transform
        return adapters.items()

    def _label(self, teacher: str) -> str:
        return "transform" if len(self.transform) == 1 else f"transform_{teacher}"
