"""Training of a teacher's exits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.logging import print_log
from torch import Tensor, nn

from kd_mm.losses.functional import class_divergence
from kd_mm.losses.observation import StageLogits
from kd_mm.preparation.base import SCHEDULE, EpochTraining
from kd_mm.preparation.data import TrainingData, progress
from kd_mm.registry import PREPARATIONS
from kd_mm.utils.suggest import choice


@PREPARATIONS.register_module()
class ExitTraining(EpochTraining):
    """Trains the exits of a frozen teacher with the task loss: ``sum_i CE(g_i(F_i), y)``, optionally plus ``KD_T``.

    Data and augmentation are the student's. HSAKD (Yang et al., IJCAI 2021) trains its teacher's heads so; that
    MTKD-SSR does is our reading. The options come from the recipe's ``teacher_exits``: those of
    :class:`kd_mm.preparation.base.EpochTraining` (``fraction`` HSAKD's 100 of 240 epochs by default, ``min_epochs``
    6), ``loss`` (``"ce"``, or ``"ce+kd"`` with the teacher's own logits as target), ``temperature``, ``optimizer``
    (``"SGD"`` or ``"AdamW"``, which takes no ``momentum``), ``checkpoint`` (exits that were trained elsewhere).

    Raises:
        ValueError: An unknown option or loss, or a network whose logits are not comparable with those of its exits.
    """

    kind = "exits"
    remedy = (
        "train them longer or at another rate (model.recipe.teacher_exits.epochs, .lr), train the teacher with them "
        "(kd-mm train TEACHER --with-exits), or leave these stages out (stages=[...] of the losses that read them)"
    )
    defaults = {
        "mode": "auto",
        "loss": "ce",
        "temperature": 4.0,
        **SCHEDULE,
        "fraction": 5 / 12,
        "min_epochs": 6,
        "optimizer": "SGD",
        "lr": 0.05,
        "milestones": [0.3, 0.6, 0.9],
        "checkpoint": None,
    }

    module: nn.ModuleDict

    def setup(self) -> None:
        choice(f"{self.source} loss", self.options["loss"], ("ce", "ce+kd"))
        choice(f"{self.source} optimizer", self.options["optimizer"], ("SGD", "AdamW"))
        if self.options["loss"] == "ce+kd" and not self.distiller.task.comparable_logits:
            raise ValueError(f"{self.source} loss='ce+kd' needs the logits of a classifier; use 'ce' here")
        self.module = self.teacher.exits

    def fingerprint(self, data: TrainingData) -> list[Any]:
        shapes = {key: list(value.shape) for key, value in self.module.state_dict().items()}
        taps = [stage.tap for stage in self.teacher.exit_stages.values()]
        loss = data.config.model.get("student", {}).get("head", {}).get("loss")
        return [*super().fingerprint(data), self.distiller.recipe.exits, shapes, taps, loss, vars(self.distiller.task)]

    def run(self, data: TrainingData, partial: Path) -> dict[str, Any]:
        self.module.requires_grad_(True)
        self.train(data, partial)
        return {"state_dict": self.module.state_dict(), **self.measure(data)}

    def measure(self, data: TrainingData, images: int | None = None) -> dict[str, Any]:
        """Measure each exit.

        Args:
            data: The training data.
            images: So many random ones, up to a batch; by default all.

        Returns:
            ``scores`` and ``metric`` as :meth:`run`; ``chance``, the score of the best exit that always predicts the
            same, and ``at_chance``, the names of scores that are not above it (:meth:`kd_mm.tasks.Task.measure`).
        """
        validated = data.config.get("val_dataloader") is not None and self.distiller.task.closed_set
        split = "validation" if validated else "training"
        loader = data.loader("val_dataloader" if validated else "train_dataloader", shuffled=images is not None)
        some = "" if images is None else f"up to {images} images of "
        metric = f"{self.distiller.task.metric} on {some}the {split} data"
        return {"metric": metric, **self.scores(loader, validated, images)}

    def load(self, state: Mapping[str, Tensor], origin: str) -> None:
        self.teacher.load_exits(dict(state), origin)

    def train_epoch(self, epoch: int, loader: Any, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """Train for one epoch; return the loss of its last batch, summed over the exits."""
        self.module.train()
        task, student, loss = self.distiller.task, self.distiller.student, torch.zeros(())
        for batch in progress(loader, f"exits of teacher {self.teacher.name}, epoch {epoch + 1}"):
            stage_logits, teacher_logits, targets = self.forward(batch, training=True)
            loss = task.exit_losses(student, stage_logits, targets).sum()
            if teacher_logits is not None:
                followed = teacher_logits.expand_as(stage_logits)
                loss = (
                    loss + class_divergence(stage_logits, followed, self.options["temperature"], task.multilabel).sum()
                )
            self.step(loss, optimizer)
        return {"loss": float(loss.detach())}

    @torch.no_grad()
    def scores(self, loader: Any, validation: bool, images: int | None = None) -> dict[str, Any]:
        """Return ``scores``, ``chance`` and ``at_chance`` of :meth:`measure`."""
        self.module.eval()
        task, measured, tallies = self.distiller.task, 0, torch.zeros(())
        for batch in loader:
            stage_logits, _, targets = self.forward(batch, training=False, validation=validation)
            tallies = tallies + torch.stack([task.tally(logits, targets) for logits in stage_logits]).cpu()
            measured += len(batch["inputs"]) * get_world_size()
            if images is not None and measured >= images:
                break
        all_reduce(tallies)
        found = {f"stage {i}": task.measure(tally) for i, tally in zip(self.teacher.exit_stages, tallies, strict=True)}
        return {
            "scores": {name: each.score for name, each in found.items()},
            "chance": next(iter(found.values())).chance,
            "at_chance": [name for name, each in found.items() if each.at_chance],
        }

    def judge(self, result: Mapping[str, Any]) -> None:
        """Have losses leave out the stages whose exit is at chance."""
        stages = [int(name.removeprefix("stage ")) for name in result["at_chance"]]
        leaving = [name for name, loss in self.distiller.losses.items() if loss.leave_out(stages)]
        if stages and leaving:
            print_log(f"{' and '.join(leaving)} leave out {', '.join(result['at_chance'])}", logger="current")

    def forward(self, batch: Any, training: bool, validation: bool = False) -> tuple[Tensor, Tensor | None, Any]:
        """Return the stage logits ``(N, B, K)``, the teacher's logits where the loss reads them, and the targets.

        In training the data preprocessor augments the batch; the annotations may be those of validation data.
        """
        data, task = self.distiller.data_preprocessor(batch, training), self.distiller.task
        records = self.teacher.record(data["inputs"])
        targets = (task.validation_targets if validation else task.targets)(data["data_samples"])
        maps = self.stage_maps(records, self.teacher.exit_stages)
        stage_logits = StageLogits.of({i: self.module[str(i)](feature) for i, feature in maps.items()}).stacked
        teacher_logits = self.teacher.logits(data["inputs"], records) if self.options["loss"] == "ce+kd" else None
        return stage_logits, teacher_logits, targets
