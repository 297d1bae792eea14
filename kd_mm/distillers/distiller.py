"""The Distiller: the model that the Runner trains."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from kd_mm.distillers.builder import Networks
from kd_mm.distillers.compilation import Compilation
from kd_mm.distillers.loss_monitor import LossMonitor, check_first_step
from kd_mm.distillers.objective import Objective
from kd_mm.distillers.parts import build_objective
from kd_mm.distillers.recipe import Recipe
from kd_mm.distillers.requirements import Requirements
from kd_mm.losses import Loss, Progress
from kd_mm.registry import MODELS
from kd_mm.tasks import build_task
from kd_mm.utils.checkpoint import OWN_PREFIX, mismatch
from kd_mm.utils.contexts import unwrapped


@MODELS.register_module()
class Distiller(BaseModel):
    """Trains the student exactly as its own config would, plus the losses of a recipe.

    In ``loss`` mode each teacher runs once on the student's batch, named modules of the student are recorded while it
    computes its own losses, and the recipe's losses turn both into extra terms. In ``predict`` and ``tensor`` mode it
    is the student alone. ``state_dict`` holds the student under its own names and everything else under ``distill.``;
    unknown attributes are the student's.

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
        compile: What runs through ``torch.compile``: see :class:`kd_mm.distillers.compilation.Compilation`.

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
        compile: Mapping[str, Any] | None = None,  # noqa: A002 - torch's own word
    ) -> None:
        # Parity with the plain run: nothing may touch the global random state before or after the student is built.
        if isinstance(student, dict):  # copied: some detectors write into their config while they are built
            own = {} if data_preprocessor is None else {"data_preprocessor": data_preprocessor}
            student = {**own, **copy.deepcopy(student)}
        built = student if isinstance(student, nn.Module) else MODELS.build(student)
        super().__init__()
        del self.data_preprocessor  # the student's serves, through __getattr__
        self.student = built
        self.task = build_task(task, self.student)
        self.compilation = Compilation.read(compile)
        self.recipe = Recipe.read(recipe, self.task.exit_on_last)
        self.task.setup(self.student, self.recipe.exit_type.output)
        networks = Networks(self.student, self.task, self.recipe, teacher, stages, input_size, seed)
        self.teachers, self.stage_pairs, self.recorder = networks.teachers, networks.pairs, networks.recorder
        self.stages, self.exit_stages, self.exit_pairs = networks.matched, networks.exit_stages, networks.exit_pairs
        self.class_counts, self.input_size = networks.class_counts, networks.input_size
        self.task.note_classes(next(iter(self.class_counts.values()), 0))
        self.distill = build_objective(networks)
        self.compilation.apply(self.student, self.teachers, self.distill, self.task)
        self.progress = Progress()
        self.monitor: LossMonitor | None = None
        self.check_next_step = False
        self._register_state_dict_hook(_rename_saved)
        self._register_load_state_dict_pre_hook(_rename_loaded, with_module=True)

    @property
    def objective(self) -> Objective:
        """Exits, connectors and losses; the submodule ``distill``, whose name is the prefix in checkpoints."""
        return self.distill

    @property
    def requirements(self) -> Requirements:
        """What the losses read."""
        return self.distill.requirements

    @property
    def losses(self) -> dict[str, Loss]:
        """The losses by name."""
        return dict(self.distill.losses.items())  # type: ignore[arg-type]

    # -- one iteration -------------------------------------------------------------------------------------------

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Run the student, and in ``loss`` mode the distillation.

        Args:
            inputs: ``(B, C, H, W)``, normalised by the student's data preprocessor.
            data_samples: Annotations, as the student takes them.
            mode: ``"loss"``, ``"predict"`` or ``"tensor"``.

        Returns:
            In ``loss`` mode a flat dict: the student's losses, ``loss_<name>`` for each term (weighted, summed by the
            engine), ``<name>`` and ``<name>.<part>`` unweighted for the log. Otherwise what the student returns.
        """
        if mode != "loss":
            return self.student(inputs, data_samples, mode=mode)
        weights = self.objective.weights(self.progress)  # of the losses in force
        teachers = {name: self.teachers[name].observe(inputs) for name in self.objective.teachers_of(weights)}
        with self.recorder, self.task.recording(self.student):
            losses = dict(self.student(inputs, data_samples, mode="loss"))  # the upstream model, unedited
        batch = self.task.batch(self.student, inputs, data_samples, self.recorder.take(), self.requirements.reads)
        teachers = {name: self.teachers[name].finish(teacher, batch) for name, teacher in teachers.items()}
        terms = self.objective(batch, teachers, weights, self.progress)  # exits, connectors, losses
        if self.check_next_step:
            self.check_next_step = False
            check_first_step(terms, self.losses, batch.records, weights)
        self.objective.balance.measure(self.student, losses, terms, weights)
        return self.with_terms(losses, terms, weights)

    def with_terms(
        self, losses: dict[str, Any], terms: Mapping[str, Tensor], weights: Mapping[str, float]
    ) -> dict[str, Any]:
        """Return the student's own losses and the terms under their names for the engine."""
        factor = self.recipe.student_loss_weight
        if factor != 1.0:
            for name in (name for name in losses if "loss" in name):
                several = isinstance(losses[name], list | tuple)
                losses[name] = [factor * item for item in losses[name]] if several else factor * losses[name]
        if not self.objective.losses:
            return losses
        if "loss" in losses:  # the engine logs the total under this name
            losses["loss_student"] = losses.pop("loss")
        losses.update(terms)
        # DDP waits for a gradient of every parameter; a term whose schedule is at zero gives it a zero one.
        zero = self.objective.zero_of_parameters() if len(weights) < len(self.objective.losses) else None
        key = next((key for key in losses if "loss" in key), None)
        if zero is not None and key is not None:
            losses[key] = losses[key] + zero
        return losses

    def store_teachers(self, wrapper: OptimWrapper) -> None:
        """Store frozen teachers and their exits in the type of the autocast that the training steps run under, if any.

        Args:
            wrapper: Whose context a training step has.
        """
        device = next(self.parameters()).device.type
        with wrapper.optim_context(self):
            dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        running = [loss for loss in self.losses.values() if loss.runs_teacher or "teacher.classifier" in loss.requires]
        kept = {name for loss in running for name in loss.teacher_names}
        for name, teacher in self.teachers.items():
            if not teacher.is_ema and name not in kept:
                teacher.store_in(dtype)

    @torch.compiler.disable  # counts iterations, and reads the device once per logging interval
    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """Sum what has "loss" in its name; return scalars for the log only on steps that are logged.

        The engine's own takes a mean of each scalar, three kernels a term and step.
        """
        scalars = {name: _mean(value) for name, value in losses.items()}
        first, *others = (value for name, value in scalars.items() if "loss" in name)
        loss = sum(others, first)
        log_vars: dict[str, Any] = {"loss": loss, **scalars}
        if self.monitor is not None:
            log_vars = self.monitor.update(log_vars)
            self.objective.watch(log_vars)
        return loss, log_vars

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


def _mean(value: Tensor | Sequence[Tensor]) -> Tensor:
    if not isinstance(value, Tensor):
        return sum(_mean(one) for one in value)  # type: ignore[return-value]
    return value.mean() if value.ndim else value


def _rename_saved(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Save the student under its own names (a ``state_dict`` hook of the Distiller)."""
    own = prefix + "student."
    for key in [key for key in state if key.startswith(own)]:
        state[prefix + key[len(own) :]] = state.pop(key)


def _rename_loaded(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give a checkpoint's plain names to the student; a file that does not fill the student stops the run.

    Raises:
        ValueError: Keys of the student are missing or have another shape; or an exit or connector has another shape.
    """
    plain = [key for key in state if key.startswith(prefix) and not key.startswith(prefix + OWN_PREFIX)]
    given = {key[len(prefix) :]: state[key] for key in plain}
    problem = mismatch(module.student.state_dict(), given, extra=False)
    if problem:
        raise ValueError(
            f"the checkpoint does not fill the student {type(module.student).__name__}: {problem}; to start from those "
            "of its weights that fit, set model.student.init_cfg=dict(type='Pretrained', checkpoint=PATH), no load_from"
        )
    own = module.distill.state_dict(prefix=prefix + OWN_PREFIX)
    shared = tuple(f"{prefix}{OWN_PREFIX}{part}." for part in ("exits", "connectors", "teacher_exits"))
    parts = {key: value for key, value in own.items() if key in state and key.startswith(shared)}
    problem = mismatch(parts, state, extra=False)
    if problem:
        raise ValueError(
            f"the checkpoint's exits or connectors are not those of the config: {problem}; take the config and the "
            "version that wrote it, or export its student (kd-mm export) and start from that"
        )
    for key in plain:
        state[f"{prefix}student.{key[len(prefix) :]}"] = state.pop(key)


def find_distiller(runner: Runner) -> Distiller:
    """Return the Distiller that a runner trains, out of its parallel wrapper.

    Raises:
        TypeError: The runner trains something else.
    """
    model = unwrapped(runner)
    if not isinstance(model, Distiller):
        raise TypeError(
            f"this hook belongs to a kd_mm.Distiller, but the model is a {type(model).__name__}; drop the hook"
        )
    return model
