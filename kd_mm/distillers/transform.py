"""The recipe's transform of teacher responses: one instance a teacher, applied before the losses that read it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.distillers.build import Networks
from kd_mm.distillers.recipe import Recipe
from kd_mm.losses import Loss
from kd_mm.losses.observation import Observation
from kd_mm.losses.response_transform import FINAL, AnswerSetting, ResponseTransform, Step
from kd_mm.registry import MODELS
from kd_mm.tasks import Answer, Task
from kd_mm.utils.random_state import isolated_rng


def build_transforms(networks: Networks, task: Task, recipe: Recipe, seed: int) -> nn.ModuleDict:
    """Build the transform of each teacher whose responses are read by losses that it serves.

    Called before what the dry run showed is let go.

    Raises:
        ValueError: No loss of the recipe reads a teacher's responses.
    """
    transforms = nn.ModuleDict()
    if not recipe.transform:
        return transforms
    _check_readers(recipe)
    for name, teacher in networks.teachers.items():
        with isolated_rng(f"transform/{name}", seed):
            transform: ResponseTransform = MODELS.build(dict(recipe.transform))
            names = _answers_read(transform, networks.losses, name, len(networks.matched), bool(recipe.exit_on_last))
            if not names:
                continue
            classes = next(iter(networks.num_classes.values()), 0)
            widths, dense = dict.fromkeys(names, task.exit_width(classes)), False
            answer = networks.taps.teacher_answer.get(name)
            if FINAL in names and answer is not None:
                with torch.no_grad():
                    shown = answer.read(teacher.model, networks.shown[name], networks.shown[""])
                widths[FINAL], dense = shown.shape[-1], shown.ndim == 3 and shown.shape[-1] == classes
            sigmoids = {one for one in names if (dense if one == FINAL else task.multilabel)}
            labelled = task.answer_is_response and not task.regional and not task.multilabel
            transform.setup(AnswerSetting(widths, frozenset(sigmoids), labelled))
            transform.answers = frozenset(names)
        transforms[name] = transform
    return transforms


class Transforms:
    """The transforms of all teachers, as the Distiller uses them.

    Args:
        modules: By teacher; registered in the Distiller.
        answers: How each teacher answers.
        last_is_final: Whether the last stage's response is the network's own answer.
    """

    def __init__(self, modules: nn.ModuleDict, answers: Mapping[str, Answer | None], last_is_final: bool) -> None:
        self.modules: dict[str, Any] = dict(modules.items())
        self.answers, self.last_is_final = answers, last_is_final

    @property
    def needs_targets(self) -> bool:
        """Whether any reads the targets."""
        return any(transform.needs_targets for transform in self.modules.values())

    def __call__(
        self,
        teachers: Mapping[str, Observation],
        active: Mapping[str, Loss],
        step: Step,
        taken: Mapping[str, Tensor],
        losses: dict[str, Tensor],
    ) -> dict[tuple[str, str], Observation]:
        """Return what the losses see of a teacher whose responses are transformed, by the names of loss and teacher.

        Args:
            teachers: What the teachers showed; their responses are constants.
            active: The losses in force.
            step: For the transforms, without ``images``.
            taken: What the student's taps showed.
            losses: Takes the transforms' terms and penalties.
        """
        seen: dict[tuple[str, str], Observation] = {}
        for name, transform in self.modules.items():
            mine = {key: loss for key, loss in active.items() if name in loss.teacher_names and transform.serves(key)}
            if name not in teachers or not mine:
                continue
            observation = teachers[name]
            wanted = {item for loss in mine.values() for item in loss.requires}
            stages, answers = self._answers(observation, wanted)
            answers = {key: logits for key, logits in answers.items() if key in transform.answers}
            images = self._images(name, step.targets, taken, answers)
            with torch.autocast(next(iter(answers.values())).device.type, enabled=False):
                result = transform(answers, replace(step, images=images))
            label = self._label(name)
            losses.update({f"{label}.{term}": value.detach() for term, value in result.terms.items()})
            if result.penalty is not None:
                losses[f"loss_{label}"] = result.penalty
            responses = {i: result.answers.get(key, observation.stage_logits[i]) for i, key in stages.items()}
            logits = result.answers.get(FINAL, observation.logits)
            changed = replace(observation, stage_logits=responses, logits=logits)
            seen.update({(key, name): changed for key in mine})
        return seen

    def watch(self, terms: Mapping[str, float]) -> None:
        """Show each transform its own terms of a step that is logged."""
        for name, transform in self.modules.items():
            label = f"{self._label(name)}."
            transform.watch({key.removeprefix(label): value for key, value in terms.items() if key.startswith(label)})

    def _label(self, teacher: str) -> str:
        return "transform" if len(self.modules) == 1 else f"transform_{teacher}"

    def _answers(self, observation: Observation, wanted: Collection[str]) -> tuple[dict[int, str], dict[str, Tensor]]:
        """Return the names of the stages' answers, and the answers that are read."""
        own = observation.logits
        last = max(observation.stage_logits, default=0) if self.last_is_final and own is not None else 0
        stages = {i: FINAL if i == last else f"stage{i}" for i in observation.stage_logits}
        answers = (
            {stages[i]: z for i, z in observation.stage_logits.items()} if "teacher.stage_logits" in wanted else {}
        )
        if own is not None and "teacher.logits" in wanted:
            answers[FINAL] = own
        return stages, answers

    def _images(
        self, teacher: str, targets: Any, taken: Mapping[str, Tensor], answers: Collection[str]
    ) -> dict[str, Tensor]:
        """Return the image index of each row of the answers on regions."""
        regions, own = getattr(targets, "regions", None), self.answers.get(teacher)
        found = own.images(taken) if own is not None and FINAL in answers else None
        images = {} if found is None else {FINAL: found}
        if regions is not None:
            images.update({name: regions[:, 0] for name in answers if name != FINAL})
        return images


def _answers_read(
    transform: ResponseTransform, losses: Mapping[str, Loss], teacher: str, num_stages: int, exit_on_last: bool
) -> list[str]:
    names: set[str] = set()
    for key, loss in losses.items():
        if teacher not in loss.teacher_names or not transform.serves(key):
            continue
        if "teacher.logits" in loss.requires:
            names.add(FINAL)
        if "teacher.stage_logits" in loss.requires:
            stages: Iterable[int] = loss.stage_numbers(num_stages)
            names |= {FINAL if i == num_stages and not exit_on_last else f"stage{i}" for i in stages}
    return sorted(names)


def _check_readers(recipe: Recipe) -> None:
    assert recipe.transform is not None
    chosen = recipe.transform.get("losses")
    types = {
        name: MODELS.get(loss["type"])
        for name, loss in recipe.losses.items()
        if loss is not None and (chosen is None or name in chosen)
    }
    if not any(
        {"teacher.logits", "teacher.stage_logits"} & getattr(kind, "requires", frozenset()) for kind in types.values()
    ):
        raise ValueError(
            f"recipe: transform {recipe.transform['type']} changes what a teacher answers, but none of the losses "
            f"{', '.join(types) or '(there are none)'} reads that; add one that does, e.g. the recipe kd, or drop it"
        )
