"""Trains the teachers' codes on the frozen teachers before distillation starts, once, and keeps the result."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, barrier, get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.progress import Progress as ProgressBar
from torch import Tensor

from kd_mm.distillers import Distiller, Teacher
from kd_mm.hooks.best_codes import BestCodes
from kd_mm.hooks.distill_hook import find_distiller
from kd_mm.hooks.preparation import data_loader, in_epochs, result_folder, save_whole
from kd_mm.losses.functional import full_precision, kl_divergence
from kd_mm.losses.mag import BRANCHES, CodeReader, Codes
from kd_mm.registry import HOOKS
from kd_mm.utils.checkpoint import read_checkpoint
from kd_mm.utils.random_state import isolated_rng
from kd_mm.utils.suggest import nearest

DEFAULTS: dict[str, Any] = {
    "epochs": None,
    "fraction": 1 / 4,
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "milestones": [0.5, 0.75],
    "gamma": 0.1,
    "separate_passes": False,
    "held_out": 0.0,
}


@HOOKS.register_module()
class TeacherCodesHook(Hook):
    """Prepares the teachers' codes for multi-granularity distillation: frozen teacher, encoders and decoders trained.

    ``sum_j T_j^2 KL(softmax(z_t / T_j) || softmax(d_j / T_j)) + CE(d_j, y)``, ``d_j`` decoded from the code j of the
    teacher's feature, T 2 and 8, as the public code of Shao and Chen (arXiv 2108.06681) does; SGD with step decay, data
    and augmentation as the student's. The options come from ``preparation`` of the losses
    (:class:`kd_mm.losses.MAGLoss`): ``fraction`` (its length in epochs over that of the whole run, the public code's
    60 of 240 by default), ``epochs`` (its length as a number, instead), ``milestones`` (fractions of this length),
    ``gamma``, ``lr``, ``momentum``, ``weight_decay``, ``separate_passes`` (a pass over the data for each code, as in
    the public code, instead of one for both, which gives equal gradients), ``held_out``. The last epoch counts, or with
    ``held_out``, a share of each class of the training images that the codes are not trained on, the one that is best
    there, for each code by itself; the public code chose one by test accuracy.

    The result is written to ``teacher_codes_<teacher>_<hash>.pth``; the hash covers the teacher's weights, the feature,
    the data and the options, so later runs and resumes find it. After each epoch the state so far is kept, and a killed
    preparation goes on from there. Without such a loss the hook does nothing.

    Args:
        cache_dir: Folder of the result, which other runs may share; the work dir by default.
    """

    priority = "NORMAL"

    def __init__(self, cache_dir: str | None = None) -> None:
        self.cache_dir = cache_dir

    def before_train(self, runner: Runner) -> None:
        """Load or train the codes that the losses read.

        Raises:
            ValueError: An unknown option of ``preparation``, or a loss that is not finite.
        """
        distiller = find_distiller(runner)
        for loss in distiller.losses.values():
            if isinstance(loss, CodeReader):
                for option in loss.preparation:
                    if option not in DEFAULTS:
                        raise ValueError(
                            f"{type(loss).__name__}: preparation has no option {option!r}{nearest(option, DEFAULTS)}"
                        )
                teacher = distiller.teachers[loss.teacher_names[0]]
                loss.take_codes(_Preparation(runner, distiller, teacher, loss, self.cache_dir).run())


class _Preparation:
    """One teacher's codes, from nothing to a file."""

    def __init__(
        self, runner: Runner, distiller: Distiller, teacher: Teacher, reader: CodeReader, cache_dir: str | None
    ) -> None:
        self.runner, self.distiller, self.teacher, self.reader = runner, distiller, teacher, reader
        name = f"{type(reader).__name__}: preparation"
        self.options = in_epochs({**DEFAULTS, **reader.preparation}, runner, name)
        self.file = result_folder(cache_dir, runner) / f"teacher_codes_{teacher.name}_{self.fingerprint()}.pth"
        self.partial = self.file.with_suffix(".partial.pth")

    def fingerprint(self) -> str:
        """Return a hash of everything that the trained codes depend on."""
        reader = self.reader
        loader = self.runner.cfg.get("train_dataloader") or {}
        data = {k: v for k, v in loader.items() if k not in ("num_workers", "persistent_workers", "pin_memory")}
        view = [self.runner.cfg.model.get("data_preprocessor"), self.runner.cfg.get("data_preprocessor")]
        shape = [reader.teacher_tap, reader.width, reader.code_dims, reader.code_temperatures]
        student = self.runner.cfg.model.get("student", {}).get("train_cfg")
        parts = [
            self.teacher.identity,
            self.teacher.input_size,
            shape,
            self.options,
            data,
            view,
            student,
            get_world_size(),
        ]
        return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()[:12]

    def run(self) -> Codes:
        """Return the trained codes, frozen."""
        device = next(self.teacher.model.parameters()).device
        with isolated_rng(f"teacher codes/{self.teacher.name}"):
            codes = Codes(self.reader.width, self.reader.code_dims, self.distiller.num_classes[self.teacher.name])
            codes = codes.to(device)
            found = self.file.is_file()
            barrier()
            if not found:
                self.train(codes)
        barrier()
        stored = read_checkpoint(str(self.file))
        codes.load_state_dict(stored["state_dict"])
        scores = ", ".join(f"{name}: {score:.1%}" for name, score in stored["accuracy"].items())
        where = "held-out training images" if self.options["held_out"] else "the training data"
        self.runner.logger.info(
            f"codes of teacher {self.teacher.name!r}, accuracy of their decoders on {where}: {scores}"
        )
        return codes.requires_grad_(False).eval()

    def train(self, codes: Codes) -> None:
        options = self.options
        self.runner.logger.info(f"training the codes of teacher {self.teacher.name!r} for {options['epochs']} epochs")
        optimizer = torch.optim.SGD(
            [{"params": branch_parameters(codes, name)} for name in BRANCHES],
            options["lr"],
            momentum=options["momentum"],
            weight_decay=options["weight_decay"],
        )
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, options["milestones"], options["gamma"])
        start, accuracy, best = 0, dict.fromkeys(BRANCHES, 0.0), self.selection()
        if self.partial.is_file():
            state = read_checkpoint(str(self.partial))
            codes.load_state_dict(state["state_dict"])
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            start, accuracy = state["epoch"], state["accuracy"]
            if best:
                best.kept = state["best"]
            self.runner.logger.info(f"going on after epoch {start} of the codes' training ({self.partial})")
        loader = data_loader(self.runner, chosen=best.trained_on if best else None)
        passes = [(name,) for name in BRANCHES] if options["separate_passes"] else [BRANCHES]
        with ProgressBar(disable=not is_main_process(), transient=True) as bar:
            task = bar.add_task(f"codes of {self.teacher.name}", total=options["epochs"], completed=start)
            for epoch in range(start, options["epochs"]):
                for branches in passes:
                    # Every epoch has a random state of its own, so that a killed preparation continues exactly.
                    with isolated_rng(f"epoch {epoch} of rank {get_rank()}"):
                        accuracy = {**accuracy, **self.epoch(epoch, loader, codes, optimizer, branches)}
                schedule.step()
                if best:
                    best.rate(codes, epoch + 1)
                bar.advance(task)
                if is_main_process():
                    state = {"state_dict": codes.state_dict(), "optimizer": optimizer.state_dict()}
                    state = {**state, "schedule": schedule.state_dict(), "epoch": epoch + 1, "accuracy": accuracy}
                    state["best"] = best.kept if best else {}
                    save_whole(state, self.partial)
        weights, accuracy = best.best() if best else (codes.state_dict(), accuracy)
        if is_main_process():
            save_whole({"state_dict": weights, "accuracy": accuracy}, self.file)
            self.partial.unlink(missing_ok=True)

    def selection(self) -> BestCodes | None:
        """Return what chooses the epoch, where images are held out for that.

        Raises:
            ValueError: Not a share.
        """
        share, tap = self.options["held_out"], self.reader.teacher_tap
        if not 0 <= share < 1:
            raise ValueError(
                f"{type(self.reader).__name__}: preparation.held_out={share} is a share, from 0 to below 1"
            )
        return BestCodes(self.runner, self.distiller, self.teacher, tap or "", share) if share else None

    def epoch(
        self, epoch: int, loader: Any, codes: Codes, optimizer: torch.optim.Optimizer, branches: tuple[str, ...]
    ) -> dict[str, float]:
        """Train for one epoch; return the accuracy of each decoder along the way."""
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        right, seen = dict.fromkeys(branches, 0.0), 0
        for batch in loader:
            feature, logits, targets = self.look(batch)
            temperatures = dict(zip(BRANCHES, self.reader.code_temperatures, strict=True))
            decoded = train_step(codes, optimizer, feature, logits, targets, {n: temperatures[n] for n in branches})
            for name, answer in decoded.items():
                right[name] += float(self.distiller.task.correct(answer, targets).sum())
            seen += len(targets)
        counts = torch.tensor([seen, *right.values()], dtype=torch.float64)
        all_reduce(counts)
        return {name: float(count / counts[0].clamp(min=1)) for name, count in zip(right, counts[1:], strict=True)}

    def look(self, batch: Any) -> tuple[Tensor, Tensor, Any]:
        """Return the teacher's feature, its logits and the targets of a batch."""
        data = self.distiller.data_preprocessor(batch, True)
        taken = self.teacher.observe(data["inputs"])
        answer = self.distiller.task.answer(self.teacher.model, False)
        tapped = self.distiller.plan.teacher_answer.get(self.teacher.name)
        logits = (
            answer.read(self.teacher.model, taken, {})
            if tapped
            else self.teacher.answer(data["inputs"], self.distiller.task)
        )
        targets = self.distiller.task.targets(data["data_samples"])
        return full_precision(taken[self.reader.teacher_tap or ""]), logits.detach(), targets


def branch_parameters(codes: Codes, name: str) -> list[torch.nn.Parameter]:
    """Return the parameters of the encoder and decoder of one code."""
    return [*codes.encoders[name].parameters(), *codes.decoders[name].parameters()]


def train_step(
    codes: Codes,
    optimizer: torch.optim.Optimizer,
    feature: Tensor,
    logits: Tensor,
    targets: Tensor,
    temperatures: dict[str, float],
) -> dict[str, Tensor]:
    """Train the codes named in ``temperatures`` on one batch; return what they decode to, ``(B, K)``.

    Args:
        codes: The teacher's.
        optimizer: Of all of them; a code that is not named keeps its parameters and their momentum.
        feature: ``(B, D)``, constant.
        logits: The teacher's, ``(B, K)``, constant.
        targets: Class indices ``(B,)`` or soft labels ``(B, K)``.
        temperatures: T by code.

    Raises:
        ValueError: The loss is not finite.
    """
    with torch.enable_grad():
        decoded = {name: codes.decoders[name](codes.encoders[name](feature)) for name in temperatures}
        losses = [
            branch_loss(decoded[name], logits, targets, temperature) for name, temperature in temperatures.items()
        ]
        loss = torch.stack(losses).sum()
        if not torch.isfinite(loss):
            raise ValueError("training the teacher's codes: the loss is not finite; lower preparation.lr")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
    if get_world_size() > 1:
        for name in temperatures:
            for parameter in branch_parameters(codes, name):
                all_reduce(parameter.grad, "mean")
    optimizer.step()
    return {name: answer.detach() for name, answer in decoded.items()}


def branch_loss(decoded: Tensor, logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return ``T^2 KL(softmax(z_t / T) || softmax(d / T)) + CE(d, y)``, a scalar."""
    return kl_divergence(decoded, logits, temperature) + F.cross_entropy(decoded, targets)
