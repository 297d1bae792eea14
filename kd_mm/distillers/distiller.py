"""The Distiller: the model that the Runner trains."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from kd_mm.distillers.build import build_networks, build_parts
from kd_mm.distillers.checkpoint import rename_loaded, rename_saved
from kd_mm.distillers.checks import check_first_step
from kd_mm.distillers.keeping import features_read, means_alone
from kd_mm.distillers.monitor import TermMonitor
from kd_mm.distillers.recipe import Recipe, attach_task_loss, exits_are_regional
from kd_mm.distillers.teacher import Teacher
from kd_mm.distillers.transform import Transforms, build_transforms
from kd_mm.distillers.views import views
from kd_mm.losses import Loss, Progress
from kd_mm.losses.response_transform import Step
from kd_mm.registry import MODELS
from kd_mm.stages.memory_format import fast_pooling
from kd_mm.stages.observation import Observation
from kd_mm.tasks import build_task


@MODELS.register_module()
class Distiller(BaseModel):
    """Trains the student exactly as its own config would, plus the losses of a recipe.

    In ``loss`` mode each teacher sees the student's batch once, named modules of the student are observed while it
    computes its own losses, and the recipe's losses turn both observations into extra terms. In ``predict`` and
    ``tensor`` mode it is the student alone. ``state_dict`` holds the student under its own names and everything else
    under ``distill.``; unknown attributes are the student's.

    Args:
        student: Config of any upstream model.
        teacher: ``dict(config=, checkpoint=, ...)`` (see :class:`Teacher`), a list of these, or a mapping by name.
        recipe: See :class:`kd_mm.distillers.recipe.Recipe`.
        stages: Taps of the stages; found by itself by default. A list for both networks, or
            ``dict(student=[...], teacher=[...])`` with the teacher's under its name where there are several.
        task: Config of the task; by default the one that suits the student.
        data_preprocessor: The student's; the Runner hands it in from the config's top level.
        input_size: Height and width in pixels of the dry run that measures the stages; default: the backbone's
            ``img_size``, else 224.
        seed: Seed of the private random states under which exits and connectors are built.

    Raises:
        ValueError: Anything in the config that does not fit, in one line.
    """

    student: Any

    def __init__(
        self,
        student: dict[str, Any],
        teacher: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        recipe: Mapping[str, Any] | None = None,
        stages: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        task: dict[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | nn.Module | None = None,
        input_size: int | tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        # Parity with the plain run: nothing may touch the global random state before or after the student is built.
        if isinstance(student, dict):  # copied: some detectors write into their config while they are built
            own = {} if data_preprocessor is None else {"data_preprocessor": data_preprocessor}
            student = {**own, **copy.deepcopy(student)}
        built = student if isinstance(student, nn.Module) else MODELS.build(student)
        super().__init__()
        del self.data_preprocessor  # the student's serves, through __getattr__
        self.student = built
        self.recipe = Recipe.read(recipe)
        self.task = build_task(task, self.student)
        self.task.bind(self.student, exits_are_regional(self.recipe))
        if self.recipe.exit_on_last is None:
            self.recipe.exit_on_last = self.task.exit_on_last
        self.teachers: dict[str, Teacher] = {}
        networks = build_networks(self.student, self.task, self.recipe, teacher, stages, input_size, seed)
        self.teachers, self.stage_pairs, self.recorder = networks.teachers, networks.pairs, networks.recorder
        self.plan, self._taps, self.num_classes = networks.plan, networks.taps, networks.num_classes
        self.stages, self.num_stages = networks.matched, len(networks.matched)
        self._late, self._tails = networks.late, networks.tails
        transforms = build_transforms(networks, self.task, self.recipe, seed)
        parts = {**build_parts(networks, self.task, self.recipe, seed), "transform": transforms}
        self._transforms = Transforms(transforms, self._taps.teacher_answer, not self.recipe.exit_on_last)
        attach_task_loss(networks.losses, self._exit_task_loss, bool(self.recipe.exit_on_last))
        self.distill = nn.ModuleDict({name: part for name, part in parts.items() if len(part)})
        self.losses: dict[str, Loss] = networks.losses
        self.input_size = networks.input_size
        self.progress = Progress()
        self.monitor: TermMonitor | None = None
        self.check_next_step = False
        self._register_state_dict_hook(rename_saved)
        self._register_load_state_dict_pre_hook(rename_loaded, with_module=True)

    # -- the student's names -------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            student = self.__dict__.get("_modules", {}).get("student")
            if student is None or name.startswith("__"):
                raise
            return getattr(student, name)

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Return the student's layer depth of a parameter for layer-wise rate decay; ours count as its head."""
        name = param_name[len(prefix) :]
        if name.startswith("student."):
            return self.student.get_layer_depth(name[len("student.") :])
        _, layers = self.student.get_layer_depth("")
        return layers - 1, layers

    def init_weights(self) -> None:
        """Initialise the student as its own config says; exits and connectors were initialised when built."""
        self.student.init_weights()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        super()._apply(fn, recurse)
        for teacher in self.teachers.values():
            teacher.apply_(fn)
        return self

    # -- one iteration -------------------------------------------------------------------------------------------

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Run the student, and in ``loss`` mode the distillation.

        Args:
            inputs: ``(B, 3, H, W)``, normalised by the student's data preprocessor.
            data_samples: Annotations, as the student takes them.
            mode: ``"loss"``, ``"predict"`` or ``"tensor"``.

        Returns:
            In ``loss`` mode a flat dict: the student's losses, ``loss_<name>`` for each term (weighted, summed by the
            engine), ``<name>`` and ``<name>.<part>`` unweighted for the log. Otherwise what the student returns.
        """
        if mode != "loss":
            return self.student(inputs, data_samples, mode=mode)
        weights = {name: loss.weight(self.progress) for name, loss in self.losses.items()}
        active = {name: self.losses[name] for name, weight in weights.items() if weight != 0}
        seen = self._observe_teachers(inputs, active)
        exit_losses: dict[str, Tensor] = {}
        targets, teachers = None, {}
        if not self._late:  # then a teacher's maps are freed before the student's activations are kept
            targets = self._targets(active, data_samples, {})
            teachers = self._teacher_observations(seen, active, targets, exit_losses, {})
        with contextlib.ExitStack() as stack:
            for loss in active.values():
                stack.enter_context(loss.watching(self.student))
            stack.enter_context(self.recorder)
            losses = dict(self.student(inputs, data_samples, mode="loss"))
        taken = self.task.as_deployed(self.student, self.recorder.take(), inputs)
        if self._late:
            targets = self._targets(active, data_samples, taken)
            teachers = self._teacher_observations(seen, active, targets, exit_losses, taken)
        if self.recipe.student_loss_weight != 1.0:
            losses = {k: _scaled(v, self.recipe.student_loss_weight) if "loss" in k else v for k, v in losses.items()}
        if not self.losses:
            return losses
        if "loss" in losses:  # the engine logs the total under this name
            losses["loss_student"] = losses.pop("loss")
        student = self._observe_student(taken, active, targets)
        if any("student.indices" in loss.needs() for loss in active.values()):
            student = replace(student, indices=self.task.indices(data_samples))
        connected = self._connect(taken, active)
        losses.update(exit_losses)
        changed = self._transforms(teachers, active, Step(self.progress, targets), taken, losses)
        values: dict[str, tuple[Tensor, dict[str, Tensor]]] = {}
        for name, loss in active.items():
            values[name] = loss.evaluate(*views(name, loss, student, connected, teachers, changed))
        if self.check_next_step:
            self.check_next_step = False
            check_first_step(values, taken, weights)
        for name, (value, parts) in values.items():
            losses[f"loss_{name}"] = value if weights[name] == 1.0 else weights[name] * value
            losses[name] = value.detach()
            if len(parts) > 1:
                losses.update({f"{name}.{part}": scalar.detach() for part, scalar in parts.items()})
        if len(active) < len(self.losses):
            self._touch_idle_parameters(losses)
        return losses

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """Sum what has "loss" in its name; return scalars for the log only on steps that are logged."""
        loss, log_vars = super().parse_losses(losses)
        if self.monitor is not None:
            log_vars = self.monitor.update(log_vars)
            self._transforms.watch(log_vars)
        return loss, log_vars

    def _observe_teachers(self, inputs: Tensor, active: Mapping[str, Loss]) -> dict[str, dict[str, Tensor]]:
        # Teachers and their exits first: what is not read later is freed before the student's activations are kept.
        needed = {name for loss in active.values() if loss.needs_teacher for name in loss.taught_by}
        if self.recipe.teacher_exits.get("mode") != "online":
            for name in sorted(self.teachers):
                if name in needed and not self.teachers[name].exits_ready:
                    raise RuntimeError(
                        f"the exits of teacher {name!r} are not trained: register the hook kd_mm.TeacherExitsHook "
                        "(default_hooks = {{_base_.kd_hooks}}) or read them with Teacher.load_exits"
                    )
        return {name: teacher.observe(inputs) for name, teacher in self.teachers.items() if name in needed}

    def _targets(self, active: Mapping[str, Loss], data_samples: Any, taken: Mapping[str, Tensor]) -> Any:
        reads = set().union(*(loss.needs() for loss in active.values())) if active else set()
        regional = self.task.regional and bool(reads & {"student.responses", "teacher.responses"})
        if "student.targets" in reads or regional or self._online_exits() or self._transforms.needs_targets:
            return self.task.targets(data_samples, taken)
        return None

    def _observe_student(self, taken: dict[str, Tensor], active: Mapping[str, Loss], targets: Any) -> Observation:
        reads = set().union(*(loss.needs() for loss in active.values())) if active else set()
        wanted = self._stages_of("student.features", active) if "student.features" in reads else set()
        inner = self._stages_of("student.embeddings", active) & self.plan.student_exits
        exits = inner | (self._stages_of("student.responses", active) if "student.responses" in reads else set())
        maps = {i: self._map(taken, i) for i in sorted(wanted | (exits & self.plan.student_exits))}
        answer, regions = self._taps.student_answer, getattr(targets, "regions", None)
        logits = answer.read(self.student, taken, taken) if answer else None
        own: Any = {i: self._own("exits")[str(i)] for i in sorted(exits & self.plan.student_exits)}
        embeddings = {i: own[i].embed(maps[i]) for i in sorted(inner)}
        responses = {i: e.fc(embeddings[i]) if i in inner else e(maps[i], regions) for i, e in own.items()}
        if exits and logits is not None and not self.recipe.exit_on_last:
            responses[self.num_stages] = logits
        taps = taken if "student.taps" in reads else {}
        kept = {i: maps[i] for i in sorted(wanted)}
        return Observation(kept, {}, responses, logits, targets, taps, embeddings=embeddings)

    def _connect(self, taken: dict[str, Tensor], active: Mapping[str, Loss]) -> dict[str, dict[int, Tensor]]:
        connected: dict[str, dict[int, Tensor]] = {}
        for name in self.teachers:
            mine = {key: loss for key, loss in active.items() if name in loss.taught_by}
            stages = sorted(self._stages_of("student.connected", mine))
            if stages:
                connectors = self._own("connectors", name)
                maps = {i: self._map(taken, i) for i in stages}
                for i in stages:
                    if means_alone(mine.values(), "student.connected", i, self.num_stages):
                        maps[i] = fast_pooling(maps[i])
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
            mine = {key: loss for key, loss in active.items() if name in loss.taught_by}
            stages = {i: self.stage_pairs[name][i - 1][1] for i in self.plan.teacher_features[name]}
            maps = {i: stage.to_map(taken[stage.tap]) for i, stage in stages.items()}
            online = self._online_exits() and name in self._own("teacher_exits")
            exits = self._own("teacher_exits", name) if online else teacher.exits
            answering = self.plan.teacher_exits[name]
            if not online:
                answering = answering & self._stages_of("teacher.responses", mine)
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
            tapped = any("teacher.taps" in loss.needs() for loss in mine.values())
            taps = {tap: teacher.plain(shown) for tap, shown in taken.items()} if tapped else {}
            observations[name] = Observation(kept, {}, constants, logits, taps=taps, tail=self._tails.get(name))
        return observations

    @torch.no_grad()
    def _answer_of(self, name: str, taken: dict[str, Tensor], shown: Mapping[str, Tensor]) -> Tensor | None:
        answer, model = self._taps.teacher_answer[name], self.teachers[name].model
        return answer.read(model, taken, shown).detach() if answer else None

    # -- small things --------------------------------------------------------------------------------------------

    def _own(self, *path: str) -> nn.ModuleDict:
        found: Any = self.distill
        for name in path:
            found = found[name]
        return found

    def _map(self, taken: dict[str, Tensor], index: int) -> Tensor:
        stage = self._taps.student_stages[index]
        return stage.to_map(taken[stage.tap])

    def _stages_of(self, item: str, active: Mapping[str, Loss]) -> set[int]:
        readers = [loss for loss in active.values() if item in loss.needs()]
        return {i for loss in readers for i in loss.stage_numbers(self.num_stages)}

    def _online_exits(self) -> bool:
        return "teacher_exits" in self.distill

    def _exit_task_loss(self, logits: Tensor, targets: Any) -> Tensor:
        return self.task.exit_loss(self.student, logits, targets)

    def _touch_idle_parameters(self, losses: dict[str, Tensor]) -> None:
        # DDP waits for a gradient of every parameter; a term whose schedule is at zero gives it a zero one.
        parameters = [parameter.sum() for parameter in self.distill.parameters() if parameter.requires_grad]
        key = next((key for key in losses if "loss" in key), None)
        if parameters and key is not None:
            losses[key] = losses[key] + 0.0 * torch.stack(parameters).sum()


def _scaled(value: Any, weight: float) -> Any:
    return [weight * item for item in value] if isinstance(value, list | tuple) else weight * value


def _cast(feature: Tensor, exits: nn.Module) -> Tensor:
    parameter = next(exits.parameters())
    return feature if torch.is_autocast_enabled(feature.device.type) else feature.to(parameter.dtype)
