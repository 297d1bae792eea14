"""How well the exits of a trained student and of its teachers predict, beside chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.runner import Runner
from torch import Tensor

from kd_mm.distillers import Distiller, find_distiller
from kd_mm.preparation.data import TrainingData
from kd_mm.utils.contexts import eval_mode, isolated_rng

#: Images of the training data that are scored where the validation data do not serve.
_IMAGES = 2000


def exit_scores(runner: Runner) -> dict[str, Any]:
    """Score each exit on the validation data, or on training images where only these have what it predicts.

    A stage whose logits are the network's own counts as an exit. In re-identification the validation data have other
    identities; regions are those of the training pipeline.

    Args:
        runner: Of a distillation that is trained.

    Returns:
        ``exit/student/1`` ... and the same for each teacher, in percent; ``exit/chance``, that of the best
        constant prediction; ``exit/metric``, what is measured. Empty where no loss reads stage logits.
    """
    distiller = find_distiller(runner)
    if "student.stage_logits" not in distiller.requirements.reads:
        return {}
    validated = runner.cfg.get("val_dataloader") is not None and distiller.task.scores_exits_on_validation
    split = "validation" if validated else "training"
    tallies: dict[str, Tensor] = {}
    images = 0
    with torch.no_grad(), eval_mode(distiller), isolated_rng("exit scores"):
        for data_batch in TrainingData(runner, distiller).loader("val_dataloader" if validated else "train_dataloader"):
            data = distiller.data_preprocessor(data_batch, False)
            with runner.optim_wrapper.optim_context(distiller):
                logits, targets = _stage_logits(distiller, data["inputs"], data["data_samples"])
                targets = distiller.task.validation_targets(data["data_samples"]) if validated else targets
            for name, each in logits.items():
                tallies[name] = tallies.get(name, 0.0) + distiller.task.tally(each, targets)
            images += len(data["data_samples"])
            if not validated and images >= _IMAGES:
                break
    found = {name: distiller.task.measure(tally) for name, tally in tallies.items()}
    scores = {f"exit/{name}": 100 * each.score for name, each in found.items()}
    chance = next(iter(found.values())).chance
    return {**scores, "exit/chance": 100 * chance, "exit/metric": f"{distiller.task.metric} on the {split} data"}


def _stage_logits(distiller: Distiller, inputs: Any, data_samples: Any) -> tuple[dict[str, Tensor], Any]:
    """Return the logits of each exit on a batch by network and stage, ``student/1``, and the targets."""
    objective = distiller.objective
    with distiller.recorder, distiller.task.recording(distiller.student):
        distiller.student(inputs, data_samples, mode="loss")  # as in training: regions are sampled here
    records = distiller.recorder.take()
    batch = distiller.task.batch(
        distiller.student, inputs, data_samples, records, distiller.requirements.reads | {"student.targets"}
    )
    logits: dict[str, Mapping[int, Tensor]] = {"student": objective.observe(batch).stage_logits or {}}
    for name in objective.teachers_of(distiller.losses):
        teacher = distiller.teachers[name]
        logits[name] = teacher.finish(teacher.observe(inputs), batch).stage_logits or {}
    named = {f"{name}/{stage}": each for name, stages in logits.items() for stage, each in stages.items()}
    return named, batch.targets
