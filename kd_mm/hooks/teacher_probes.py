"""Rates the teachers by linear probes on their stages before distillation starts, once, and keeps the result."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.table import Table
from torch import Tensor

from kd_mm.distillers import Distiller, Teacher
from kd_mm.engine.atomic_files import replace_file
from kd_mm.hooks.distill_hook import find_distiller
from kd_mm.hooks.linear_probes import held_out_parts, nearest_rate, pooled, rate
from kd_mm.hooks.preparation import result_folder
from kd_mm.hooks.report import render
from kd_mm.hooks.training_images import look_at_all, plain_training_data
from kd_mm.losses import GPACAttentionLoss
from kd_mm.registry import HOOKS
from kd_mm.utils.random_state import isolated_rng
from kd_mm.utils.suggest import nearest

#: Options of ``GPACAttentionLoss.probes``: what a teacher is rated by (``"accuracy"`` of the probe, or
#: ``"retrieval"``: rank-1 of the features themselves, without a probe), what is read (``"gap"``, ``"pool4"`` or
#: ``"flat"``), the share of each class that is held out or a number of ``folds`` instead, Adam's schedule, the most
#: images that are looked at (``None`` for all), the most memory that their features may take.
DEFAULTS: dict[str, Any] = {
    "metric": "accuracy",
    "input": "gap",
    "held_out": 0.1,
    "folds": None,
    "epochs": 20,
    "batch_size": 256,
    "lr": 1e-3,
    "weight_decay": 0.0,
    "seed": 0,
    "max_images": 100_000,
    "max_gigabytes": 8.0,
}


@HOOKS.register_module()
class TeacherProbesHook(Hook):
    """Rates every teacher at every stage for the losses that choose between teachers (``GPACAttentionLoss``).

    A probe is a linear softmax classifier on a frozen stage, trained apart from the network (Alain and Bengio 2016,
    arXiv 1610.01644). It is trained on a part of the training images and rated on the rest, the same for all teachers;
    test images are never looked at. The images come without augmentation, through the validation pipeline; teachers
    are frozen, in eval mode, and look at each image once. The options are the loss's ``probes`` (:data:`DEFAULTS`).

    The table of accuracies is logged and drawn into ``teacher_probes_<loss>.png`` in the work dir. Each teacher's row
    is kept in ``teacher_probes_<teacher>_<hash>.json``; the hash covers the teacher's weights, the stages, the data and
    the options, so later runs and resumes find it. Without such a loss the hook does nothing.

    Args:
        cache_dir: Folder of the rows, which other runs may share; the work dir by default.
    """

    priority = "NORMAL"

    def __init__(self, cache_dir: str | None = None) -> None:
        self.cache_dir = cache_dir

    def before_train(self, runner: Runner) -> None:
        """Rate the teachers and let the losses choose.

        Raises:
            ValueError: An unknown option of ``probes``, or a task without one class an image.
        """
        distiller = find_distiller(runner)
        for name, loss in distiller.losses.items():
            if isinstance(loss, GPACAttentionLoss) and loss.needs_probes:
                _rate_for(runner, distiller, name, loss, result_folder(self.cache_dir, runner))


def _rate_for(runner: Runner, distiller: Distiller, name: str, loss: GPACAttentionLoss, folder: Path) -> None:
    options = checked(loss.probes)
    stages = loss.stage_numbers(distiller.num_stages)
    rows = {
        one: _Rating(runner, distiller, distiller.teachers[one], stages, options, folder).row()
        for one in loss.teacher_names
    }
    accuracy = {one: {i: row[f"stage{i}"] for i in stages} for one, row in rows.items()}
    loss.choose(accuracy, {one: row["final"] for one, row in rows.items()})
    runner.logger.info("\n" + probe_table(rows, loss.shares))
    if is_main_process():
        replace_file(Path(runner.work_dir) / f"teacher_probes_{name}.png", probe_picture(rows, loss.shares))


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the probes, defaults filled in.

    Raises:
        ValueError: An unknown option, or a value that is out of its range.
    """
    for option in given:
        if option not in DEFAULTS:
            raise ValueError(f"GPACAttentionLoss: probes has no option {option!r}{nearest(option, DEFAULTS)}")
    options = {**DEFAULTS, **given}
    if options["input"] not in ("gap", "pool4", "flat"):
        raise ValueError(f"probes: input={options['input']!r} is unknown; choose 'gap', 'pool4' or 'flat'")
    if options["metric"] not in ("accuracy", "retrieval"):
        raise ValueError(f"probes: metric={options['metric']!r} is unknown; choose 'accuracy' or 'retrieval'")
    if not 0 < options["held_out"] < 1 or (options["folds"] is not None and options["folds"] < 2):
        raise ValueError(
            f"probes: held_out={options['held_out']} must be between 0 and 1, folds={options['folds']} 2 or more"
        )
    return options


class _Rating:
    """One teacher's row of the table, from nothing to a file."""

    def __init__(
        self,
        runner: Runner,
        distiller: Distiller,
        teacher: Teacher,
        stages: tuple[int, ...],
        options: dict[str, Any],
        folder: Path,
    ) -> None:
        self.runner, self.distiller, self.teacher, self.options = runner, distiller, teacher, options
        pairs = distiller.stage_pairs[teacher.name]
        self.stages = {i: pairs[i - 1][1] for i in stages}
        self.data, self.plain = plain_training_data(runner)
        self.file = folder / f"teacher_probes_{teacher.name}_{self.fingerprint()}.json"

    def fingerprint(self) -> str:
        """Return a hash of everything that the row depends on."""
        options = {k: v for k, v in self.options.items() if k != "max_gigabytes"}
        taps = {i: stage.tap for i, stage in self.stages.items()}
        view = [self.runner.cfg.model.get("data_preprocessor"), self.runner.cfg.get("data_preprocessor")]
        parts = [self.teacher.identity, taps, self.teacher.input_size, self.data, view, options]
        return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()[:12]

    def row(self) -> dict[str, float]:
        """Return the accuracy of each stage's probe and of the teacher's own answers (``final``), in [0, 1]."""
        found = self.file.is_file()
        barrier()
        if not found:
            if not self.plain:
                self.runner.logger.warning(
                    "no validation pipeline that fits the training data: the probes see augmented images"
                )
            with isolated_rng("teacher probes"):
                row = self.rate()
            if is_main_process():
                replace_file(self.file, json.dumps(row).encode())
            barrier()
        row = json.loads(self.file.read_text())
        self.runner.logger.info(f"probes of teacher {self.teacher.name!r}: {self.file}")
        return row

    def rate(self) -> dict[str, float]:
        title = f"probes of {self.teacher.name}"
        most = self.options["max_images"]
        shown, labels = look_at_all(self.runner, self.distiller, self.data, self.look, title, most)
        masks = held_out_parts(labels, self.options["held_out"], self.options["folds"], self.options["seed"])
        classes = max(self.distiller.num_classes.get("", 0), int(labels.max()) + 1)
        answers = shown.pop("answer")
        features = {i: shown[f"stage{i}"] for i in self.stages}
        device = next(self.teacher.model.parameters()).device
        if self.options["metric"] == "retrieval":
            accuracy = nearest_rate(features, labels, masks)
        else:
            accuracy = rate(features, labels, classes, masks, self.options, device)
        final = [float((answers[mask] == labels[mask]).float().mean()) for mask in masks]
        return {**{f"stage{i}": value for i, value in accuracy.items()}, "final": sum(final) / len(final)}

    def look(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return what the probes read of each stage, and the class that the teacher answers, under ``answer``."""
        taken, name = self.teacher.observe(inputs), self.teacher.name
        maps = {i: stage.to_map(taken[stage.tap]) for i, stage in self.stages.items()}
        read = {f"stage{i}": pooled(feature, self.options["input"]) for i, feature in maps.items()}
        width = sum(feature.shape[1] for feature in read.values())
        images = min(len(self.runner.train_dataloader.dataset), self.options["max_images"] or 10**12)
        needed = 4e-9 * width * images
        if needed > self.options["max_gigabytes"]:
            raise ValueError(
                f"probes: features of {width} numbers for {images} images take {needed:.1f} GB, more than "
                f"max_gigabytes={self.options['max_gigabytes']:g}: lower probes.max_images, or set probes.input='gap'"
            )
        answer = self.distiller.task.answer(self.teacher.model, False)
        tapped = self.distiller.plan.teacher_answer.get(name)
        logits = (
            answer.read(self.teacher.model, taken, {}) if tapped else self.teacher.answer(inputs, self.distiller.task)
        )
        return {**read, "answer": logits.argmax(dim=-1)}


def probe_table(rows: Mapping[str, Mapping[str, float]], shares: Mapping[int, Mapping[str, float]]) -> str:
    """Return the accuracies in percent as text, a star where a teacher is listened to.

    Args:
        rows: Fractions by teacher, then ``stage<i>`` and ``final``.
        shares: Share of each teacher by stage.
    """
    names = list(next(iter(rows.values())))
    title = "Probes: accuracy (%) on held-out training images; * = guides the student there"
    table = Table("teacher", *(name.replace("stage", "stage ") for name in names), title=title)
    for teacher, row in rows.items():
        cells = [f"{100 * row[name]:.2f}{' *' if _guides(name, teacher, shares) else ''}" for name in names]
        table.add_row(teacher, *cells)
    return render(table)


def probe_picture(rows: Mapping[str, Mapping[str, float]], shares: Mapping[int, Mapping[str, float]]) -> bytes:
    """Return the table as a PNG: a cell a teacher and stage, framed where the teacher guides the student."""
    names = [name for name in next(iter(rows.values())) if name != "final"]
    values = torch.tensor([[100 * row[name] for name in names] for row in rows.values()])
    figure = Figure(figsize=(2.2 + 1.3 * len(names), 1.2 + 0.6 * len(rows)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(values.numpy(), cmap="cividis", aspect="auto")
    axes.set_xticks(range(len(names)), [name.replace("stage", "stage ") for name in names])
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_title("probe accuracy (%), framed: guides the student", fontsize=9)
    middle = float(values.min() + values.max()) / 2
    for y, teacher in enumerate(rows):
        for x, name in enumerate(names):
            value, chosen = float(values[y, x]), _guides(name, teacher, shares)
            axes.text(x, y, f"{value:.1f}", ha="center", va="center", color="black" if value > middle else "white")
            if chosen:
                corner = (x - 0.47, y - 0.46)
                axes.add_patch(Rectangle(corner, 0.94, 0.92, fill=False, edgecolor="#D55E00", linewidth=2.5))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _guides(name: str, teacher: str, shares: Mapping[int, Mapping[str, float]]) -> bool:
    return name != "final" and shares[int(name.removeprefix("stage"))].get(teacher, 0.0) > 0
