"""Measures what every exit knows, at each validation: the student's as they learn, the teachers' once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from kd_mm.distillers import Distiller, Teacher, find_distiller
from kd_mm.registry import HOOKS
from kd_mm.stages.stage import Stage


@HOOKS.register_module()
class ExitProbeHook(Hook):
    """Logs the accuracy of each exit on the validation data, in percent.

    It rides on the engine's own validation: the student runs as it would without the hook, its taps are read on the
    way, and only the exits are run in addition. Teachers are run at the first validation and not again, unless their
    exits are still learning (``mode="online"``). Nothing is drawn from a random state and no statistics move: training
    goes on bit for bit as without the hook.

    Logged beside the validation metrics, in the log and under ``val/`` in the message hub: ``exit/student_stage1`` ...
    for the student's exits, ``exit/student_final`` for its own answer, and the same under the name of each teacher
    (``exit/teacher_stage1``, ``exit/teacher_final``). What the recipe does not build is not logged. With several
    processes, images that the sampler repeats to fill the last batch count twice. In re-identification the validation
    data have other identities than the exits: nothing is measured, and the log says so.
    """

    priority = "NORMAL"

    def __init__(self) -> None:
        self._right: dict[str, Tensor] = {}
        self._seen = 0
        self._known: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Say so where nothing can be measured."""
        if not find_distiller(runner).task.closed_set:
            runner.logger.info("the validation data have other classes than the exits: these are not probed")

    def before_val_epoch(self, runner: Runner) -> None:
        """Start counting."""
        self._right, self._seen = {}, 0

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Let the student's taps record during this batch."""
        if find_distiller(runner).task.closed_set:
            find_distiller(runner).recorder.__enter__()

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Run the exits on what the taps recorded."""
        distiller = find_distiller(runner)
        if not distiller.task.closed_set:
            return
        distiller.recorder.__exit__()
        if distiller.task.regional:
            raise ValueError("ExitProbeHook does not fit exits that answer for regions: drop the hook")
        targets = distiller.task.targets(outputs)
        self._seen += len(targets)
        with torch.no_grad():
            self._count("student", _student_responses(distiller), targets, distiller)
            unknown = [name for name in distiller.teachers if name not in self._known]
            if unknown:
                inputs = distiller.data_preprocessor(data_batch, False)["inputs"]
            for name in unknown:
                self._count(name, _teacher_responses(distiller, name, inputs), targets, distiller)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Hand the accuracies to the log."""
        if not self._right:
            return
        names = list(self._right)
        counts = torch.stack([self._right[name] for name in names])
        counts = torch.cat([counts, counts.new_tensor([self._seen])])
        all_reduce(counts)
        *right, seen = counts.tolist()
        for name, count in zip(names, right, strict=True):
            runner.message_hub.update_scalar(f"val/exit/{name}", 100.0 * count / seen)
        distiller = find_distiller(runner)
        still = {name for name, teacher in distiller.teachers.items() if not teacher.is_ema}
        self._known |= still - set(_online_exits(distiller))

    def _count(self, side: str, responses: Mapping[str, Tensor], targets: Tensor, distiller: Distiller) -> None:
        for part, logits in responses.items():
            name, right = f"{side}_{part}", distiller.task.correct(logits, targets).sum()
            self._right[name] = self._right[name] + right if name in self._right else right


def _online_exits(distiller: Distiller) -> Mapping[str, Any]:
    return dict(distiller.objective.teacher_exits.items())


def _student_responses(distiller: Distiller) -> dict[str, Tensor]:
    records, objective = distiller.recorder.take(), distiller.objective
    responses = _responses(objective.exits, dict(enumerate(distiller.stages, 1)), records)
    if objective.reader is not None and distiller.task.answer_is_response:
        responses["final"] = objective.reader.read(records)
    return responses


def _teacher_responses(distiller: Distiller, name: str, inputs: Tensor) -> dict[str, Tensor]:
    teacher: Teacher = distiller.teachers[name]
    exits = _online_exits(distiller).get(name, teacher.exits if teacher.exits_ready else {})
    stages = {i: theirs for i, (_, theirs) in enumerate(distiller.stage_pairs.get(name, []), 1)}
    records = teacher.record(inputs)
    responses = _responses(exits, stages, records)
    if not distiller.task.answer_is_response:
        return responses
    return {**responses, "final": teacher.logits(inputs, records)}


def _responses(exits: Any, stages: Mapping[int, Stage], taken: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the logits ``(B, K)`` of each exit, shallow to deep."""
    responses = {}
    for number in sorted(map(int, exits)):
        module: nn.Module = exits[str(number)]
        feature = stages[number].to_map(taken[stages[number].tap])
        responses[f"stage{number}"] = module(feature.to(next(module.parameters()).dtype))
    return responses
