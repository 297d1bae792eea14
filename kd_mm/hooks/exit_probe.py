"""Measures the accuracy of every exit at each validation: the student's as they learn, the teachers' once."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from kd_mm.distillers import Distiller, find_distiller
from kd_mm.registry import HOOKS
from kd_mm.stages.stage import Stage


@HOOKS.register_module()
class ExitProbeHook(Hook):
    """Logs the accuracy of each exit on the validation data, in percent.

    The student's taps are recorded during the engine's own validation, and only the exits run in addition. Teachers run
    at the first validation alone, unless their exits are still trained (``mode="online"``). The training is the same
    bit for bit as without the hook.

    Logged beside the validation metrics: ``exit/student_stage1`` ... for the student's exits, ``exit/student_final``
    for its own logits, the same under the name of each teacher, and ``exit/chance``, the best accuracy of an exit that
    always predicts the same. With several processes, images that the sampler repeats to fill the last batch count
    twice. In re-identification nothing is measured: the validation data have other identities than the exits.
    """

    priority = "NORMAL"

    def __init__(self) -> None:
        self._recording = contextlib.ExitStack()
        self._correct: dict[str, Tensor] = {}
        self._constant, self._count = torch.zeros(()), 0
        self._measured_teachers: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Log that nothing can be measured, where that is so.

        Raises:
            ValueError: The exits classify regions.
        """
        task = find_distiller(runner).task
        if task.regional:
            raise ValueError("ExitProbeHook does not fit exits that classify regions: drop the hook")
        if not task.closed_set:
            runner.logger.info("the validation data have other classes than the exits: exits are not measured")

    def before_val_epoch(self, runner: Runner) -> None:
        """Reset the counts."""
        self._correct, self._constant, self._count = {}, torch.zeros(()), 0

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Record the student's taps during this batch."""
        distiller = find_distiller(runner)
        if distiller.task.closed_set:
            self._recording.enter_context(distiller.recorder)

    @torch.no_grad()
    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Run the exits on the recorded tensors."""
        self._recording.close()
        distiller = find_distiller(runner)
        if not distiller.task.closed_set:
            return
        targets = distiller.task.targets(outputs)
        logits = student_logits(distiller)
        teachers = [name for name in distiller.teachers if name not in self._measured_teachers]
        if teachers:
            inputs = distiller.data_preprocessor(data_batch, False)["inputs"]
            for name in teachers:
                logits |= teacher_logits(distiller, name, inputs)
        for name, each in logits.items():
            self._correct[name] = self._correct.get(name, 0) + distiller.task.correct(each, targets).sum()
        for each in list(logits.values())[:1]:  # all are as wide
            self._constant = self._constant + distiller.task.constant_scores(targets, each.shape[-1]).cpu()
        self._count += len(targets)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Log the accuracies."""
        if not self._correct:
            return
        counts = torch.stack(list(self._correct.values()))
        counts = torch.cat([counts, counts.new_tensor([self._count])])
        all_reduce(counts)
        *correct, count = counts.tolist()
        for name, each in zip(self._correct, correct, strict=True):
            runner.message_hub.update_scalar(f"val/exit/{name}", 100.0 * each / count)
        all_reduce(self._constant)
        chance = float(self._constant.max(dim=1).values.sum())
        runner.message_hub.update_scalar("val/exit/chance", 100.0 * chance / count)
        distiller = find_distiller(runner)
        frozen = {name for name, teacher in distiller.teachers.items() if not teacher.is_ema}
        self._measured_teachers |= frozen - set(distiller.objective.teacher_exits)


def student_logits(distiller: Distiller) -> dict[str, Tensor]:
    """Return the logits ``(B, K)`` of the student's exits and its own, from the recorded tensors of a batch."""
    records, objective = distiller.recorder.take(), distiller.objective
    logits = _exit_logits("student", objective.exits, objective.stages, records)
    if objective.reader is not None and distiller.task.comparable_logits:
        logits["student_final"] = objective.reader.read(records)
    return logits


def teacher_logits(distiller: Distiller, name: str, inputs: Tensor) -> dict[str, Tensor]:
    """Return the logits ``(B, K)`` of a teacher's exits and its own on a preprocessed batch."""
    teacher, online = distiller.teachers[name], dict(distiller.objective.teacher_exits.items())
    records = teacher.record(inputs)
    exits: Any = online.get(name, teacher.exits)
    with teacher.precision(inputs.device):
        logits = _exit_logits(name, exits, teacher.stages, records)
    if distiller.task.comparable_logits:
        logits[f"{name}_final"] = teacher.logits(inputs, records)
    return logits


def _exit_logits(
    side: str, exits: nn.ModuleDict, stages: Mapping[int, Stage], records: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    logits = {}
    for number in sorted(map(int, exits)):
        layer = exits[str(number)]
        feature = stages[number].to_map(records[stages[number].tap])
        logits[f"{side}_stage{number}"] = layer(feature.to(next(layer.parameters()).dtype))
    return logits
