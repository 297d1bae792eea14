"""What the Distiller sees of student and teachers in one iteration: observations, and targets of their exits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from kd_mm.distillers.build import Taps
from kd_mm.distillers.keeping import features_read, means_alone
from kd_mm.distillers.recipe import Plan, Recipe
from kd_mm.distillers.teacher import Teacher
from kd_mm.distillers.transform import Transforms
from kd_mm.losses import Loss
from kd_mm.losses.functional import wide_dtype
from kd_mm.losses.observation import Observation
from kd_mm.stages.memory_format import fast_pooling
from kd_mm.stages.stage import Stage
from kd_mm.tasks import Task


class Observing(BaseModel):
    """The half of the Distiller that looks; which losses are ``active`` says what is looked at."""

    student: Any
    recipe: Recipe
    task: Task
    teachers: dict[str, Teacher]
    distill: nn.ModuleDict
    stage_pairs: dict[str, list[tuple[Stage, Stage]]]
    num_stages: int
    plan: Plan
    _taps: Taps
    _tails: Mapping[str, Any]
    _transforms: Transforms

    def _observe_teachers(self, inputs: Tensor, active: Mapping[str, Loss]) -> dict[str, dict[str, Tensor]]:
        # Teachers and their exits first: what is not read later is freed before the student's activations are kept.
        needed = {name for loss in active.values() if loss.needs_teacher for name in loss.teacher_names}
        if self.recipe.teacher_exits.get("mode") != "online":
            for name in sorted(self.teachers):
                if name in needed and not self.teachers[name].exits_ready:
                    raise RuntimeError(
                        f"the exits of teacher {name!r} are not trained: register the hook "
                        "kd_mm.PrepareTeachersHook (default_hooks = {{_base_.kd_hooks}}) or load them with "
                        "Teacher.load_exits"
                    )
        return {name: teacher.observe(inputs) for name, teacher in self.teachers.items() if name in needed}

    def _targets(self, active: Mapping[str, Loss], data_samples: Any, taken: Mapping[str, Tensor]) -> Any:
        reads = set().union(*(loss.requires for loss in active.values())) if active else set()
        regional = self.task.regional and bool(reads & {"student.stage_logits", "teacher.stage_logits"})
        if (
            reads & {"student.targets", "student.valid_classes"}
            or regional
            or self._online_exits()
            or self._transforms.needs_targets
        ):
            return self.task.targets(data_samples, taken)
        return None

    def _observe_student(
        self, taken: dict[str, Tensor], active: Mapping[str, Loss], targets: Any, fast: dict[int, Tensor]
    ) -> Observation:
        reads = set().union(*(loss.requires for loss in active.values())) if active else set()
        wanted = self._stages_of("student.features", active) if "student.features" in reads else set()
        inner = self._stages_of("student.embeddings", active) & self.plan.student_exits
        exits = inner | (self._stages_of("student.stage_logits", active) if "student.stage_logits" in reads else set())
        answer, regions = self._taps.student_answer, getattr(targets, "regions", None)
        logits = answer.read(self.student, taken, taken) if answer else None
        own: Any = {i: self._own("exits")[str(i)] for i in sorted(exits & self.plan.student_exits)}
        maps = {
            i: self._fast_map(fast, taken, i) if getattr(exit_, "convolves", False) else self._map(taken, i)
            for i, exit_ in own.items()
        }
        embeddings = {i: own[i].embed(maps[i]) for i in sorted(inner)}
        responses = {i: e.fc(embeddings[i]) if i in inner else e(maps[i], regions) for i, e in own.items()}
        if exits and logits is not None and not self.recipe.exit_on_last:
            responses[self.num_stages] = logits
        taps = taken if "student.taps" in reads else {}
        kept = {i: self._map(taken, i) for i in sorted(wanted)}
        return Observation(
            features=kept,
            stage_logits=responses,
            logits=logits,
            targets=targets,
            valid_classes=self.task.valid_classes(targets),
            taps=taps,
            embeddings=embeddings,
        )

    def _connect(
        self, taken: dict[str, Tensor], active: Mapping[str, Loss], fast: dict[int, Tensor]
    ) -> dict[str, dict[int, Tensor]]:
        connected: dict[str, dict[int, Tensor]] = {}
        for name in self.teachers:
            mine = {key: loss for key, loss in active.items() if name in loss.teacher_names}
            stages = sorted(self._stages_of("student.adapted", mine))
            if stages:
                connectors = self._own("connectors", name)
                pooled = {i: means_alone(mine.values(), "student.adapted", i, self.num_stages) for i in stages}
                maps = {i: self._fast_map(fast, taken, i) if pooled[i] else self._map(taken, i) for i in stages}
                connected[name] = {i: connectors[str(i)](maps[i]) for i in stages}
        return connected

    def _teacher_observations(
        self,
        seen: dict[str, dict[str, Tensor]],
        active: Mapping[str, Loss],
        targets: Any,
        losses: dict[str, Tensor],
        shown: Mapping[str, Tensor],
    ) -> dict[str, Observation]:
        observations = {}
        for name in list(seen):
            taken, teacher = seen.pop(name), self.teachers[name]
            mine = {key: loss for key, loss in active.items() if name in loss.teacher_names}
            stages = {i: self.stage_pairs[name][i - 1][1] for i in self.plan.teacher_features[name]}
            maps = {i: stage.to_map(taken[stage.tap]) for i, stage in stages.items()}
            online = self._online_exits() and name in self._own("teacher_exits")
            exits = self._own("teacher_exits", name) if online else teacher.exits
            answering = self.plan.teacher_exits[name]
            if not online:
                answering = answering & self._stages_of("teacher.stage_logits", mine)
            regions = getattr(targets, "regions", None)
            with torch.set_grad_enabled(bool(online) and torch.is_grad_enabled()):
                responses = {i: exits[str(i)](_cast(maps[i], exits), regions) for i in sorted(answering)}
            if online and targets is not None:
                exit_losses = [self.task.exit_loss(self.student, logits, targets) for logits in responses.values()]
                losses[f"loss_exits_of_{name}"] = torch.stack(exit_losses).sum()
            logits = self._answer_of(name, taken, shown)
            if logits is not None and not self.recipe.exit_on_last:
                responses[self.num_stages] = logits
            kept = features_read(maps, mine.values(), self.num_stages, teacher.plain)
            constants = {i: response.detach() for i, response in responses.items()}
            tapped = any("teacher.taps" in loss.requires for loss in mine.values())
            taps = {tap: teacher.plain(shown) for tap, shown in taken.items()} if tapped else {}
            pooled = {i: maps[i].mean(dim=(2, 3), dtype=wide_dtype(maps[i])) for i in maps}
            observations[name] = Observation(
                features=kept,
                pooled=pooled,
                stage_logits=constants,
                logits=logits,
                taps=taps,
                classifier=self._tails.get(name),
            )
        return observations

    @torch.no_grad()
    def _answer_of(self, name: str, taken: dict[str, Tensor], shown: Mapping[str, Tensor]) -> Tensor | None:
        answer, model = self._taps.teacher_answer[name], self.teachers[name].model
        return answer.read(model, taken, shown).detach() if answer else None

    def _own(self, *path: str) -> nn.ModuleDict:
        found: Any = self.distill
        for name in path:
            found = found[name]
        return found

    def _map(self, taken: Mapping[str, Tensor], index: int) -> Tensor:
        stage = self._taps.student_stages[index]
        return stage.to_map(taken[stage.tap])

    def _fast_map(self, fast: dict[int, Tensor], taken: Mapping[str, Tensor], index: int) -> Tensor:
        # Once a step: exits and connectors share the map, and the sum of their gradients is what goes back through it.
        if index not in fast:
            fast[index] = fast_pooling(self._map(taken, index))
        return fast[index]

    def _stages_of(self, item: str, active: Mapping[str, Loss]) -> set[int]:
        readers = [loss for loss in active.values() if item in loss.requires]
        return {i for loss in readers for i in loss.stage_numbers(self.num_stages)}

    def _online_exits(self) -> bool:
        return "teacher_exits" in self.distill


def _cast(feature: Tensor, exits: nn.Module) -> Tensor:
    parameter = next(exits.parameters())
    return feature if torch.is_autocast_enabled(feature.device.type) else feature.to(parameter.dtype)
