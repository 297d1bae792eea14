"""A Distiller's networks: teachers, matched stages, taps; all measured in one dry run each."""

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from kd_mm.distillers.matching import Matches, dry_run_size, match_stages
from kd_mm.distillers.recipe import Recipe, reads_stages
from kd_mm.distillers.renormalize import Renormalize
from kd_mm.distillers.requirements import Requirements
from kd_mm.distillers.teacher import Teacher
from kd_mm.losses import Loss
from kd_mm.registry import MODELS
from kd_mm.stages.recorder import Recorder
from kd_mm.stages.tap import Tap, find_module
from kd_mm.tasks import Task
from kd_mm.utils.channels import explained_channels, input_channels
from kd_mm.utils.contexts import eval_mode, isolated_rng
from kd_mm.utils.suggest import check_options, nearest


class Networks:
    """Student and teachers: teachers built, stages found and matched, taps hooked, all measured in one dry run each.

    Its arguments are those of :class:`kd_mm.distillers.Distiller`, the recipe and the task read from them. Teachers,
    pairs and records are by the teacher's name.

    Attributes:
        losses: By name.
        teachers: Ready to run.
        pairs: Matched (student, teacher) stages whose maps can be compared.
        matched: The student's matched stages.
        exit_pairs: Matched (student, teacher) stages that can have exits; the same unless maps are those of necks.
        exit_stages: The student's stages that can have exits.
        last: The stage whose stage logits are a network's own; 0 where it has an exit of its own.
        requirements: What the losses read.
        recorder: Records the student.
        reader: How the student's own logits are read, where a loss reads them.
        input_size: Height and width of the dry run.
        student_records: Recorded tensors of the student in the dry run.
        teacher_records: Likewise of each teacher.
        logits: The networks' own logits in the dry run, where a loss reads them, by ``"student"`` or teacher.
        class_counts: K, where a network states it, likewise.

    Raises:
        ValueError: Class counts that differ where a loss compares logits, stages that do not fit, and so on.
    """

    def __init__(
        self,
        student: nn.Module,
        task: Task,
        recipe: Recipe,
        teacher: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
        stages: Sequence[str] | Mapping[str, Sequence[str]] | None,
        input_size: int | tuple[int, int] | None,
        seed: int,
    ) -> None:
        self.student, self.task, self.recipe, self.seed = student, task, recipe, seed
        self.teachers: dict[str, Teacher] = {}
        self.losses = self._build_losses(teacher_configs(teacher))
        with isolated_rng("dry run", seed), explained_channels():
            self.input_size = dry_run_size(student, input_size, task.default_size)
            inputs = torch.rand(2, input_channels(student), *self.input_size) * 2 - 1
            inputs = inputs.to(_device(student))
            self._match(stages, inputs)
            self._check_names(stages, [*teacher_configs(teacher), *recipe.teachers])
            student_taps, teacher_taps = self._extra_taps()
            self.student_records = self._run_student(inputs, student_taps)
            self.teacher_records = {name: self._run_teacher(name, inputs, taps) for name, taps in teacher_taps.items()}
            self.logits = self._measured_logits()
            self._set_classifiers()
        self.class_counts = self._count_classes()

    def is_online(self, teacher: Teacher) -> bool:
        """Return whether the exits of a teacher are trained during the distillation."""
        return self.recipe.exit_mode == "online" and not teacher.is_ema

    # -- losses and teachers -------------------------------------------------------------------------------------

    def _build_losses(self, configs: Mapping[str, Any]) -> dict[str, Loss]:
        twice = sorted(set(configs) & set(self.recipe.teachers))
        if twice:
            raise ValueError(
                f"teacher {twice[0]!r} of the config has the name of one that the recipe brings; rename it"
            )
        for (one, given), (other, same) in combinations(configs.items(), 2):
            if given == same:
                line = f"teachers {one!r} and {other!r} are of one config and one checkpoint: they teach the same twice"
                print_log(line, "current", logging.WARNING)
        losses = self.recipe.build_losses(list(configs), self.seed)
        self.task.check_losses(losses)
        for name in _teachers_of(losses):
            with isolated_rng(f"teacher/{name}", self.seed):
                self.teachers[name] = self._build_teacher(name, configs)
        losses = {name: loss for name, loss in losses.items() if self._is_comparable(name, loss)}
        self.teachers = {name: self.teachers[name] for name in _teachers_of(losses)}
        for name, loss in losses.items():
            averages = [one for one in loss.teacher_names if self.teachers[one].is_ema]
            if loss.frozen_teacher and averages:
                raise ValueError(
                    f"loss {name!r}: {type(loss).__name__} prepares something on a teacher that stays as it is, and "
                    f"{averages[0]!r} follows the student; take a loss on logits or maps (kd_mm.KDLoss, "
                    "kd_mm.FitNetsLoss)"
                )
        return losses

    def _build_teacher(self, name: str, configs: Mapping[str, Any]) -> Teacher:
        if name in configs:
            check_options(Teacher, configs[name], f"teacher {name!r}")
            built = Teacher(name, **configs[name])
        else:
            config = dict(self.recipe.teachers[name])
            kind: Any = MODELS.get(config.pop("type"))
            check_options(kind, config, f"teacher {name!r}")
            built = kind(name, self.student, **config)
        built.model.to(_device(self.student))
        own, other = input_channels(self.student), input_channels(built.model)
        if own != other and not (own == 1 and built.repeat_grey):
            grey = "model.teacher.repeat_grey=True repeats the grey channel"
            raise ValueError(
                f"teacher {name!r} takes images of {other} channels, the student of {own}: "
                f"{grey if own == 1 else 'choose another one'}"
            )
        built.renormalize = Renormalize(self.student, built.model, other)
        return built

    def _is_comparable(self, name: str, loss: Loss) -> bool:
        """Return whether the networks have what a loss compares; log why one is left out that may be."""
        models = [self.teachers[one].model for one in loss.teacher_names if loss.optional]
        reasons = [self.task.incomparable(self.student, one) or loss.incomparable(self.student, one) for one in models]
        if any(reasons):
            print_log(f"loss {name!r} is left out: {next(filter(None, reasons))}", logger="current")
        return not any(reasons)

    # -- the dry run ---------------------------------------------------------------------------------------------

    def _match(self, stages: Sequence[str] | Mapping[str, Sequence[str]] | None, inputs: Tensor) -> None:
        """Match the stages, and derive from the losses what is read of them."""
        matches = with_exits = Matches()
        if reads_stages(self.losses):
            matches, with_exits = match_stages(self.student, self.teachers, self.task, self.recipe, stages, inputs)
        self.pairs, self.matched = matches.pairs, matches.student
        self.exit_pairs, self.exit_stages = with_exits.pairs, with_exits.student
        self.last = 0 if self.recipe.exit_on_last else len(self.exit_stages)
        for loss in self.losses.values():
            pairs = self.exit_pairs if loss.reads_exits else self.pairs
            loss.match(pairs.get(next(iter(loss.teacher_names), ""), ()), self.recipe.exit_on_last)
        counts = len(self.matched), len(self.exit_stages)
        self.requirements = Requirements.of(self.losses, *counts, self.recipe.exit_on_last, self.task.comparable_logits)

    def _check_names(self, stages: Any, teachers: Sequence[str]) -> None:
        """Check the stages that a config names, which may be read by no loss."""
        models = {"student": [self.student], "teacher": [each.model for each in self.teachers.values()]}
        models |= {name: [self.teachers[name].model] if name in self.teachers else [] for name in teachers}
        sides = stages if isinstance(stages, Mapping) else dict.fromkeys(("student", "teacher"), stages)
        for side, taps in sides.items():
            if side not in models:
                raise ValueError(f"model.stages.{side}: there is no network of that name{nearest(side, models)}")
            for tap, model in product([taps] if isinstance(taps, str) else taps or (), models[side]):
                try:
                    find_module(model, Tap.parse(str(tap)))
                except ValueError as error:
                    raise ValueError(f"model.stages.{side}: {error}") from error

    def _extra_taps(self) -> tuple[list[str], dict[str, list[str]]]:
        """Return the taps that losses name themselves: of the student, and of each teacher."""
        of_student: list[str] = []
        of_teachers: dict[str, list[str]] = {name: [] for name in self.teachers}
        for loss in self.losses.values():
            name = next(iter(loss.teacher_names), "")
            own, other = loss.extra_taps(self.student, self.teachers[name].model if name else nn.Identity())
            of_student += own
            if name:
                of_teachers[name] += other
        return of_student, of_teachers

    def _run_student(self, inputs: Tensor, extra: Sequence[str]) -> dict[str, Tensor]:
        needs = self.requirements
        self.reader = self.task.logits_reader(self.student, True) if needs.student.logits else None
        taps = [self.matched[i - 1].tap for i in needs.student_stages]
        taps += [self.exit_stages[i - 1].tap for i in sorted(needs.student.exits)]
        taps += self.reader.taps if self.reader else ()
        self.recorder = Recorder(self.student, [*taps, *extra])
        with eval_mode(self.student), self.recorder:
            self.task.forward(self.student, inputs)
            self.recorder.calibrate()
        return self.recorder.take()

    def _run_teacher(self, name: str, inputs: Tensor, extra: Sequence[str]) -> dict[str, Tensor]:
        teacher, reads = self.teachers[name], self.requirements.teachers[name]
        reader = self.task.logits_reader(teacher.model, False) if reads.logits else None
        if reader is not None and reader.needs_regions and teacher.input_size:
            raise ValueError(
                f"teacher {name!r}: input_size resizes the batch, and losses on regions compare pixels; leave it out"
            )
        stages, exit_stages = ([pair[1] for pair in each.get(name, ())] for each in (self.pairs, self.exit_pairs))
        online = self.is_online(teacher)
        teacher.setup(self.task, reads, stages, exit_stages, reader, self.last, extra, trained_exits=online)
        with torch.no_grad(), teacher.recorder, teacher.precision(inputs.device):
            self.task.forward(teacher.model, teacher.preprocess(inputs))
            teacher.recorder.calibrate()
        return teacher.recorder.take()

    @torch.no_grad()
    def _measured_logits(self) -> dict[str, Tensor]:
        """Return the networks' own logits in the dry run, and check that student and teachers can be compared."""
        logits = {} if self.reader is None else {"student": self.reader.read(self.student_records)}
        own = logits.get("student")
        batch = self.task.batch(self.student, torch.empty(2), [], self.student_records, ())
        for name, teacher in self.teachers.items():
            if teacher.reader is None:
                continue
            if self.reader is not None and self.reader.unit != teacher.reader.unit:
                raise ValueError(
                    f"the student has one row of logits a {self.reader.unit}, teacher {name!r} one a "
                    f"{teacher.reader.unit}, which cannot be compared: use losses on stages (mtkd_ssr, pkd, cwd, fgd)"
                )
            other = logits[name] = teacher.reader.read(self.teacher_records[name], teacher.model, batch.sampled)
            if own is not None and own.ndim == other.ndim == 3 and own.shape[1:] != other.shape[1:]:
                raise ValueError(
                    f"the student has logits at {own.shape[1]} grid positions over {own.shape[2]} classes, teacher "
                    f"{name!r} at {other.shape[1]} over {other.shape[2]}: losses on dense logits need equal strides, "
                    "anchors and classes; use losses on stages"
                )
            if own is not None and own.ndim == 3 and (reason := self.task.incomparable(self.student, teacher.model)):
                raise ValueError(f"teacher {name!r}: {reason}: use losses on stages (mtkd_ssr, pkd, cwd, fgd)")
        return logits

    @torch.no_grad()
    def _set_classifiers(self) -> None:
        """Find what follows the last stage of each teacher whose classifier a loss reads, and check that it does."""
        for name in _teachers_of({n: loss for n, loss in self.losses.items() if "teacher.classifier" in loss.requires}):
            teacher, stage = self.teachers[name], self.pairs[name][-1][1]
            classifier = self.task.classifier(teacher.model)
            if not _gives(classifier, stage.to_map(self.teacher_records[name][stage.tap]), self.logits[name]):
                raise ValueError(
                    f"the neck and head of teacher {name!r} do not turn its last stage, {stage.tap}, into its logits: "
                    f"name the last module of its backbone in stages=dict({name}=[...]), or leave out the loss that "
                    "reads the teachers' classifiers (kd_mm.MultiTeacherFeatureLoss has weights='mean' as well)"
                )
            teacher.classifier = classifier

    def _count_classes(self) -> dict[str, int]:
        """Return over how many classes each network's logits are, where that matters, and check that they agree."""
        own = self.task.num_classes(self.student, self.logits.get("student"))
        counts = {} if own is None else {"student": own}
        for name, teacher in self.teachers.items():
            count = self.task.num_classes(teacher.model, self.logits.get(name))
            if count is None or not (name in self.logits or self.requirements.teachers[name].exits):
                continue
            counts[name] = count
            if own is not None and own != count:
                raise ValueError(
                    f"the student has {own} classes, teacher {name!r} has {count}: losses on logits need one "
                    f"class list; take a teacher of the same classes, or only {self.task.free_losses}"
                )
        return counts


def teacher_configs(teacher: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """Return teacher configs by name: one teacher is a mapping of one.

    Raises:
        ValueError: Neither a teacher config, nor a list or a mapping of them.
    """
    if not teacher:
        return {}
    if isinstance(teacher, Mapping):
        if "config" in teacher:
            return {str(teacher.get("name", "teacher")): {k: v for k, v in teacher.items() if k != "name"}}
        if all(isinstance(value, Mapping) and "config" in value for value in teacher.values()):
            return {str(name): dict(value) for name, value in teacher.items()}
        raise ValueError(f"teacher={dict(teacher)!r}: give dict(config=..., checkpoint=...), or such dicts by name")
    named = [dict(config) for config in teacher]
    return {str(config.pop("name", f"teacher{i}")): config for i, config in enumerate(named, 1)}


def _teachers_of(losses: Mapping[str, Loss]) -> list[str]:
    return sorted({name for loss in losses.values() for name in loss.teacher_names})


def _gives(classifier: Callable[[Tensor], Tensor], feature: Tensor, expected: Tensor) -> bool:
    try:
        found = classifier(feature)
    except RuntimeError:  # another width
        return False
    tolerance = 0.02 if expected.dtype.itemsize == 2 else 1e-3  # a teacher in half precision rounds its own logits
    return torch.allclose(found, expected.to(found), rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
