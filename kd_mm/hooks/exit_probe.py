"""Measures every exit at each validation: the student's as they learn, the teachers' once."""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from kd_mm.distillers import Distiller, Teacher, find_distiller
from kd_mm.models.exits import like_parameters
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
        teachers = [teacher for name, teacher in distiller.teachers.items() if name not in self._measured_teachers]
        inputs: Any = distiller.data_preprocessor(data_batch, False)["inputs"] if teachers else None
        targets = distiller.task.validation_targets(outputs)
        for (network, stage), logits in exit_logits(distiller, inputs, teachers).items():
            name = f"{network}_stage{stage}" if stage else f"{network}_final"
            self._tallies[name] = self._tallies.get(name, 0) + distiller.task.tally(logits, targets)

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


def exit_logits(distiller: Distiller, inputs: Tensor, teachers: Iterable[Teacher]) -> dict[tuple[str, int], Tensor]:
    """Return the logits of each exit on a batch by network and stage; stage 0 stands for the network's own logits.

    Args:
        distiller: Whose student has been recorded on the batch.
        inputs: ``(B, C, H, W)``, the student's normalised batch; read by teachers alone.
        teachers: The teachers that are run.
    """
    objective, own_logits = distiller.objective, distiller.task.comparable_logits
    records, logits = distiller.recorder.take(), dict[tuple[str, int], Tensor]()

    def run(network: str, exits: nn.ModuleDict, stages: Mapping[int, Stage]) -> None:
        for number in sorted(map(int, exits)):
            feature = stages[number].to_map(records[stages[number].tap])
            logits[network, number] = exits[str(number)](like_parameters(feature, exits[str(number)]))

    run("student", objective.exits, objective.exit_stages)
    if objective.reader is not None and own_logits:
        logits["student", 0] = objective.reader.read(records)
    for teacher in teachers:
        records = teacher.record(inputs)
        exits: Any = dict(objective.teacher_exits.items()).get(teacher.name, teacher.exits)
        with teacher.precision(inputs.device):
            run(teacher.name, exits, teacher.exit_stages)
        if own_logits:
            logits[teacher.name, 0] = teacher.logits(inputs, records)
    return logits
