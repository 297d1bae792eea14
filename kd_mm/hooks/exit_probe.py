"""Measures every exit at each validation: the student's as they learn, the teachers' once."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from kd_mm.distillers import find_distiller
from kd_mm.registry import HOOKS
from kd_mm.stages.stage import Stage


@HOOKS.register_module()
class ExitProbeHook(Hook):
    """Logs how good each exit is on the validation data, in percent: its accuracy, or average precision by cell.

    The student's taps are recorded during the engine's own validation, and only the exits run in addition. Teachers run
    at the first validation alone, unless their exits are still trained (``mode="online"``). The training is bit for
    bit that without the hook.

    Logged beside the validation metrics: ``exit/student_stage1`` ... for the student's exits, ``exit/student_final``
    for its own logits, the same under the name of each teacher, and ``exit/chance``, that of the best exit that
    always predicts the same. With several processes, images that the sampler repeats to fill the last batch count
    twice. In re-identification nothing is measured: the validation data have other identities than the exits.
    """

    priority = "NORMAL"

    def __init__(self) -> None:
        self._recording = contextlib.ExitStack()
        self._tallies: dict[str, Tensor] = {}
        self._measured_teachers: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Log that nothing can be measured, where that is so."""
        task = find_distiller(runner).task
        if not task.closed_set:
            runner.logger.info("the validation data have other classes than the exits: exits are not measured")

    def before_val_epoch(self, runner: Runner) -> None:
        self._tallies = {}

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        distiller = find_distiller(runner)
        if distiller.task.closed_set:
            self._recording.enter_context(distiller.recorder)

    @torch.no_grad()
    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._recording.close()
        distiller = find_distiller(runner)
        if not distiller.task.closed_set:
            return
        objective, own_logits = distiller.objective, distiller.task.comparable_logits
        records = distiller.recorder.take()
        logits = _exit_logits("student", objective.exits, objective.exit_stages, records)
        if objective.reader is not None and own_logits:
            logits["student_final"] = objective.reader.read(records)
        teachers = [teacher for name, teacher in distiller.teachers.items() if name not in self._measured_teachers]
        inputs: Any = distiller.data_preprocessor(data_batch, False)["inputs"] if teachers else None
        for teacher in teachers:
            name, records = teacher.name, teacher.record(inputs)
            exits: Any = dict(objective.teacher_exits.items()).get(name, teacher.exits)
            with teacher.precision(inputs.device):
                logits |= _exit_logits(name, exits, teacher.exit_stages, records)
            if own_logits:
                logits[f"{name}_final"] = teacher.logits(inputs, records)
        targets = distiller.task.validation_targets(outputs)
        for name, each in logits.items():
            self._tallies[name] = self._tallies.get(name, 0) + distiller.task.tally(each, targets)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        distiller = find_distiller(runner)
        for name, tally in self._tallies.items():
            all_reduce(tally)
            found = distiller.task.measure(tally)
            runner.message_hub.update_scalar(f"val/exit/{name}", 100.0 * found.score)
            runner.message_hub.update_scalar("val/exit/chance", 100.0 * found.chance)
        if self._tallies:
            frozen = {name for name, teacher in distiller.teachers.items() if not teacher.is_ema}
            self._measured_teachers |= frozen - set(distiller.objective.teacher_exits)


def _exit_logits(
    side: str, exits: nn.ModuleDict, stages: Mapping[int, Stage], records: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    logits = {}
    for number in sorted(map(int, exits)):
        layer = exits[str(number)]
        feature = stages[number].to_map(records[stages[number].tap])
        logits[f"{side}_stage{number}"] = layer(feature.to(next(layer.parameters()).dtype))
    return logits
