"""The best epoch of a teacher's codes, by training images that they are not trained on."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine.runner import Runner
from torch import Tensor

from kd_mm.distillers import Distiller, Teacher
from kd_mm.hooks.linear_probes import held_out_parts
from kd_mm.hooks.training_images import look_at_all, plain_training_data
from kd_mm.losses.functional import full_precision
from kd_mm.losses.mag import BRANCHES, Codes


class BestCodes:
    """Rates both codes after each epoch on what was held out of the training data, and keeps the best of each.

    The held-out images are a share of each class, at least one, and are looked at once, without augmentation; test
    images never. Of equal epochs the earlier one counts.

    Args:
        runner: Of the run; its training data are looked at.
        distiller: For the preprocessor and the targets.
        teacher: Whose codes are trained.
        tap: Where its feature ``(B, D)`` is read.
        share: Of each class, in (0, 1).

    Attributes:
        trained_on: Indices of the images that the codes are trained on.
        kept: By code: ``score`` in [0, 1], ``epoch`` from 1 and ``weights`` of its best epoch.
    """

    def __init__(self, runner: Runner, distiller: Distiller, teacher: Teacher, tap: str, share: float) -> None:
        data, _ = plain_training_data(runner)

        def look(inputs: Tensor) -> dict[str, Tensor]:
            return {"feature": full_precision(teacher.observe(inputs)[tap])}

        shown, labels = look_at_all(runner, distiller, data, look, f"features of {teacher.name}")
        (mask,) = held_out_parts(labels, share, None, 0)
        self.trained_on: list[int] = (~mask).nonzero().flatten().tolist()
        self.features, self.labels = shown["feature"][mask], labels[mask]
        self.kept: dict[str, dict[str, Any]] = {}

    @torch.no_grad()
    def rate(self, codes: Codes, epoch: int) -> None:
        """Keep what is better than before.

        Args:
            codes: As they are after an epoch.
            epoch: Its number, from 1.
        """
        device = next(codes.parameters()).device
        answers: dict[str, list[Tensor]] = {name: [] for name in BRANCHES}
        for chunk in self.features.split(4096):
            for name, logits in codes.decode(codes.encode(chunk.to(device))).items():
                answers[name].append(logits.argmax(dim=1).cpu())
        for name, found in answers.items():
            score = float((torch.cat(found) == self.labels).float().mean())
            if name not in self.kept or score > self.kept[name]["score"]:
                state = codes.state_dict()
                own = {key: copy.deepcopy(value) for key, value in state.items() if key.split(".")[1] == name}
                self.kept[name] = {"score": score, "epoch": epoch, "weights": own}

    def best(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return the state of the codes, each at its best epoch, and the score of each."""
        weights = {key: value for name in BRANCHES for key, value in self.kept[name]["weights"].items()}
        return weights, {name: self.kept[name]["score"] for name in BRANCHES}
