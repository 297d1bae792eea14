"""The Distiller: the model that the Runner trains."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from kd_mm.distillers.build import build_networks, build_parts
from kd_mm.distillers.checks import check_first_step
from kd_mm.distillers.loss_monitor import LossMonitor
from kd_mm.distillers.observing import Observing
from kd_mm.distillers.recipe import Recipe, exits_are_regional
from kd_mm.distillers.teacher import Teacher
from kd_mm.distillers.transform import Transforms, build_transforms
from kd_mm.losses import Loss, Progress
from kd_mm.losses.response_transform import Step
from kd_mm.registry import MODELS
from kd_mm.tasks import build_task
from kd_mm.utils.checkpoint import rename_loaded, rename_saved


@MODELS.register_module()
class Distiller(Observing):
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
        self.distill = nn.ModuleDict({name: part for name, part in parts.items() if len(part)})
        self.losses: dict[str, Loss] = networks.losses
        self.input_size = networks.input_size
        self.progress = Progress()
        self.monitor: LossMonitor | None = None
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
            if any("student.assignment" in loss.requires for loss in active.values()):
                stack.enter_context(self.task.recording(self.student))
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
        fast: dict[int, Tensor] = {}
        student = self._observe_student(taken, active, targets, fast)
        if any("student.sample_indices" in loss.requires for loss in active.values()):
            student = replace(student, sample_indices=self.task.indices(data_samples))
        if any("student.assignment" in loss.requires for loss in active.values()):
            student = replace(student, assignment=self.task.assignment(self.student, len(inputs)))
        student = replace(student, adapted_by_teacher=self._connect(taken, active, fast))
        losses.update(exit_losses)
        changed = self._transforms(teachers, active, Step(self.progress, targets), taken, losses)
        values: dict[str, tuple[Tensor, dict[str, Tensor]]] = {}
        for name, loss in active.items():
            values[name] = loss.evaluate(student, {t: changed.get((name, t), teachers[t]) for t in loss.teacher_names})
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

    def _touch_idle_parameters(self, losses: dict[str, Tensor]) -> None:
        # DDP waits for a gradient of every parameter; a term whose schedule is at zero gives it a zero one.
        parameters = [parameter.sum() for parameter in self.distill.parameters() if parameter.requires_grad]
        key = next((key for key in losses if "loss" in key), None)
        if parameters and key is not None:
            losses[key] = losses[key] + 0.0 * torch.stack(parameters).sum()


def _scaled(value: Any, weight: float) -> Any:
    return [weight * item for item in value] if isinstance(value, list | tuple) else weight * value


def find_distiller(runner: Runner) -> Distiller:
    """Return the Distiller that a runner trains, out of its parallel wrapper.

    Raises:
        TypeError: The runner trains something else.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if not isinstance(model, Distiller):
        raise TypeError(
            f"this hook belongs to a kd_mm.Distiller, but the model is a {type(model).__name__}; drop the hook"
        )
    return model
