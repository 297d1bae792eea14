"""Trains the teachers' exits on the frozen teachers before distillation starts, once, and keeps the result."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.progress import Progress as ProgressBar
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kd_mm.distillers import Distiller, Teacher
from kd_mm.hooks.distill_hook import find_distiller
from kd_mm.hooks.preparation import data_loader, in_epochs, result_folder, save_whole
from kd_mm.losses.functional import kl_divergence
from kd_mm.registry import HOOKS
from kd_mm.utils.checkpoint import read_checkpoint, student_state_dict
from kd_mm.utils.random_state import isolated_rng
from kd_mm.utils.suggest import nearest

DEFAULTS: dict[str, Any] = {
    "mode": "pretrained",
    "loss": "ce",
    "temperature": 4.0,
    "epochs": None,
    "fraction": 5 / 12,
    "lr": 0.05,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "milestones": [0.3, 0.6, 0.9],
    "gamma": 0.1,
    "checkpoint": None,
}


@HOOKS.register_module()
class TeacherExitsHook(Hook):
    """Prepares the teachers' exits: frozen teacher in eval mode, exits trained with the task loss on the training data.

    ``sum_i CE(g_i(F_i), y)``, optionally plus ``KD_T`` from the teacher's own answer; SGD with step decay, data and
    augmentation as the student's. HSAKD (Yang et al., IJCAI 2021) trains its teacher's heads so; that MTKD-SSR does is
    our reading. The options come from the recipe's ``teacher_exits``: ``fraction`` (its length in epochs over that of
    the whole run, HSAKD's 100 of 240 by default), ``epochs`` (its length as a number, instead), ``milestones``
    (fractions of this length), ``gamma``, ``lr``, ``momentum``, ``weight_decay``, ``loss`` (``"ce"`` or ``"ce+kd"``),
    ``temperature``, ``checkpoint`` (exits trained elsewhere).

    The result is written to ``teacher_exits_<teacher>_<hash>.pth``; the hash covers the teacher's weights, the exits,
    the stages, the data and the schedule, so later runs and resumes find it. After each epoch the state so far is kept,
    and a killed preparation goes on from there with the same result.

    Args:
        cache_dir: Folder of the result, which other runs may share; the work dir by default.
    """

    priority = "NORMAL"

    def __init__(self, cache_dir: str | None = None) -> None:
        self.cache_dir = cache_dir

    def before_train(self, runner: Runner) -> None:
        """Load or train the exits of every teacher that needs some.

        Raises:
            ValueError: An unknown option of ``teacher_exits``, or a file that does not fit.
        """
        distiller = find_distiller(runner)
        for option in distiller.recipe.teacher_exits:
            if option not in DEFAULTS:
                raise ValueError(f"recipe: teacher_exits has no option {option!r}{nearest(option, DEFAULTS)}")
        options = {**DEFAULTS, **distiller.recipe.teacher_exits}
        if options["loss"] not in ("ce", "ce+kd"):
            raise ValueError(f"recipe: teacher_exits loss={options['loss']!r} is unknown; choose 'ce' or 'ce+kd'")
        if options["loss"] == "ce+kd" and not distiller.task.answer_is_response:
            raise ValueError("recipe: teacher_exits loss='ce+kd' needs a classifier's own answer; use 'ce' here")
        for teacher in distiller.teachers.values():
            if not teacher.exits_ready:
                length = in_epochs(options, runner, "recipe: teacher_exits")
                _Preparation(runner, distiller, teacher, length, self.cache_dir).run()


class _Preparation:
    """One teacher's exits, from nothing to a file."""

    def __init__(
        self, runner: Runner, distiller: Distiller, teacher: Teacher, options: dict[str, Any], cache_dir: str | None
    ) -> None:
        self.runner, self.distiller, self.teacher, self.options = runner, distiller, teacher, options
        self.file = result_folder(cache_dir, runner) / f"teacher_exits_{teacher.name}_{self.fingerprint()}.pth"
        self.partial = self.file.with_suffix(".partial.pth")

    def fingerprint(self) -> str:
        """Return a hash of everything that the trained exits depend on."""
        stages = [pair[1].tap for pair in self.distiller.stage_pairs[self.teacher.name]]
        options = {k: v for k, v in self.options.items() if k not in ("checkpoint", "mode")}
        loader = self.runner.cfg.get("train_dataloader")
        data = {k: v for k, v in (loader or {}).items() if k not in ("num_workers", "persistent_workers", "pin_memory")}
        exits = {k: list(v.shape) for k, v in self.teacher.exits.state_dict().items()}
        # The exits learn from the student's batches (its batch augmentation) with its task loss.
        student = self.runner.cfg.model.get("student", {})
        task = [student.get("train_cfg"), student.get("head", {}).get("loss"), vars(self.distiller.task)]
        network = [self.teacher.identity, stages, exits, self.distiller.recipe.exits]
        parts = [*network, options, data, task, get_world_size()]
        return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()[:12]

    def run(self) -> None:
        logger = self.runner.logger
        given = self.options["checkpoint"]
        if given:
            self.teacher.load_exits(student_state_dict(read_checkpoint(given)), given)
            return
        if not self.file.is_file():
            logger.info(f"training the exits of teacher {self.teacher.name!r} for {self.options['epochs']} epochs")
            with isolated_rng(f"teacher exits/{self.teacher.name}"):
                self.train()
            barrier()
        stored = read_checkpoint(str(self.file))
        self.teacher.load_exits(stored["state_dict"], str(self.file))
        scores = ", ".join(f"stage {i}: {score:.1%}" for i, score in stored["accuracy"].items())
        where = "on the validation data" if stored["validated"] else "on the training data"
        logger.info(f"exits of teacher {self.teacher.name!r}, {self.distiller.task.metric} {where}: {scores}")

    def train(self) -> None:
        teacher, options = self.teacher, self.options
        exits = teacher.exits.requires_grad_(True)
        trained: nn.Module = _Exits(exits)
        if get_world_size() > 1:
            device = next(exits.parameters()).device
            trained = DistributedDataParallel(trained, device_ids=[device] if device.type == "cuda" else None)
        optimizer = torch.optim.SGD(
            exits.parameters(), options["lr"], momentum=options["momentum"], weight_decay=options["weight_decay"]
        )
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, options["milestones"], options["gamma"])
        start = 0
        if self.partial.is_file():
            state = read_checkpoint(str(self.partial))
            exits.load_state_dict(state["state_dict"])
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            start = state["epoch"]
            self.runner.logger.info(f"going on after epoch {start} of the exits' training ({self.partial})")
        loader = data_loader(self.runner)
        with ProgressBar(disable=not is_main_process(), transient=True) as bar:
            task = bar.add_task(f"exits of teacher {teacher.name}", total=options["epochs"] * len(loader))
            bar.advance(task, start * len(loader))
            for epoch in range(start, options["epochs"]):
                # Every epoch has a random state of its own, so that a killed preparation continues exactly.
                with isolated_rng(f"epoch {epoch} of rank {get_rank()}"):
                    loss = self.epoch(epoch, loader, trained, optimizer, lambda: bar.advance(task))
                self.runner.logger.info(
                    f"exits of {teacher.name}: epoch {epoch + 1} of {options['epochs']}, loss {loss:.4f}"
                )
                schedule.step()
                if is_main_process():
                    state = {"state_dict": exits.state_dict(), "optimizer": optimizer.state_dict()}
                    save_whole({**state, "schedule": schedule.state_dict(), "epoch": epoch + 1}, self.partial)
        # Regions of validation images would need boxes in pixels of the resized image, which test pipelines lack.
        comparable = self.distiller.task.closed_set and not self.distiller.task.regional
        validated = self.runner.cfg.get("val_dataloader") is not None and comparable
        accuracy = self.accuracy("val_dataloader" if validated else "train_dataloader")
        if is_main_process():
            result = {"state_dict": exits.state_dict(), "accuracy": accuracy, "validated": validated}
            save_whole(result, self.file)
            self.partial.unlink(missing_ok=True)

    def epoch(self, epoch: int, loader: Any, trained: nn.Module, optimizer: Any, advance: Any) -> float:
        """Train for one epoch; return the loss of its last batch, summed over the exits."""
        trained.train()
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        loss = torch.zeros(())
        for batch in loader:
            maps, logits, targets = self.look(batch, training=True)
            responses = trained(maps, getattr(targets, "regions", None))
            loss = torch.stack(
                [self.distiller.task.exit_loss(self.distiller.student, r, targets) for r in responses.values()]
            ).sum()
            if self.options["loss"] == "ce+kd":
                loss = loss + sum(kl_divergence(r, logits, self.options["temperature"]) for r in responses.values())
            if not torch.isfinite(loss):
                raise ValueError(
                    f"training the exits of teacher {self.teacher.name!r}: the loss is not finite in epoch {epoch}; "
                    "lower teacher_exits.lr"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            advance()
        return float(loss.detach())

    def accuracy(self, loader: str) -> dict[int, float]:
        """Return the accuracy of each exit, by stage."""
        self.teacher.exits.eval()
        right: dict[int, float] = {}
        seen = 0
        with torch.no_grad():
            for batch in data_loader(self.runner, loader):
                maps, _, targets = self.look(batch, training=False)
                regions = getattr(targets, "regions", None)
                for i, feature in maps.items():
                    correct = self.distiller.task.correct(self.teacher.exits[str(i)](feature, regions), targets)
                    right[i] = right.get(i, 0.0) + float(correct.sum())
                seen += len(targets)
        counts = torch.tensor([seen, *right.values()], dtype=torch.float64)
        all_reduce(counts)
        seen, *correct_counts = counts.tolist()
        return {i: count / max(1, seen) for i, count in zip(right, correct_counts, strict=True)}

    def look(self, batch: Any, training: bool) -> tuple[dict[int, Tensor], Tensor, Any]:
        """Return stage maps, the teacher's logits and the targets of a batch."""
        data = self.distiller.data_preprocessor(batch, training)
        taken = self.teacher.observe(data["inputs"])
        pairs = self.distiller.stage_pairs[self.teacher.name]
        stages = {i: pairs[i - 1][1] for i in sorted(self.distiller.plan.teacher_exits[self.teacher.name])}
        maps = {i: stage.to_map(taken[stage.tap]) for i, stage in stages.items()}
        logits = (
            self.teacher.answer(data["inputs"], self.distiller.task)
            if self.options["loss"] == "ce+kd"
            else torch.empty(0)
        )
        return maps, logits, self.distiller.task.targets(data["data_samples"])


class _Exits(nn.Module):
    """All exits as one module, so that DDP sees one forward."""

    def __init__(self, exits: nn.ModuleDict) -> None:
        super().__init__()
        self.exits = exits

    def forward(self, maps: dict[int, Tensor], regions: Tensor | None) -> dict[int, Tensor]:
        return {i: self.exits[str(i)](feature, regions) for i, feature in maps.items()}
