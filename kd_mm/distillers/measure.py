"""What the dry run tells: how taps behave, over which classes and where each network answers, and whether that fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kd_mm.distillers.teacher import Teacher
from kd_mm.tasks import Task
from kd_mm.utils.eval_mode import eval_mode

if TYPE_CHECKING:
    from kd_mm.distillers.build import Networks


def dry_run(networks: Networks, task: Task, inputs: Tensor, asked: Mapping[str, Sequence[str]]) -> None:
    """Run each network once, eval and no_grad, on what it will see; learn how its taps behave.

    ``asked`` holds further taps of each teacher.
    """
    with eval_mode(networks.student), networks.recorder as recorder:
        task.forward(networks.student, inputs)
        recorder.calibrate()
    networks.shown[""] = networks.recorder.take()
    for name, teacher in networks.teachers.items():
        stage_taps = [networks.pairs[name][i - 1][1].tap for i in sorted(networks.plan.teacher_features[name])]
        answer = networks.taps.teacher_answer[name]
        shallow = answer is None or answer.late
        taps = [*stage_taps, *(answer.taps if answer else ()), *asked[name]]
        teacher.observe_at(taps, task.forward, shallow=shallow)
        assert teacher.recorder is not None
        with torch.no_grad(), teacher.recorder as recorder:
            task.forward(teacher.model, teacher.see(inputs))
            recorder.calibrate()
        networks.shown[name] = teacher.recorder.take()
        teacher.settle(inputs)
    _measure_answers(networks, task)
    _find_tails(networks, task)


def _find_tails(networks: Networks, task: Task) -> None:
    """Find what follows the last stage of each teacher whose classifier a loss reads, and check that it does."""
    readers = [loss for loss in networks.losses.values() if "teacher.classifier" in loss.requires]
    for name in sorted({name for loss in readers for name in loss.teacher_names}):
        model, stage = networks.teachers[name].model, networks.pairs[name][-1][1]
        tail, answer = task.tail(model), networks.taps.teacher_answer[name]
        assert answer is not None
        expected = answer.read(model, networks.shown[name], networks.shown[""])
        if not _follows(tail, stage.to_map(networks.shown[name][stage.tap]), expected):
            raise ValueError(
                f"the neck and head of teacher {name!r} do not make its answer of what its last stage {stage.tap} "
                f"shows: name the last module of its backbone in stages=dict({name}=[...]), or leave out the loss that "
                "reads the teachers' classifiers (kd_mm.MultiTeacherFeatureLoss has weights='mean' as well)"
            )
        networks.tails[name] = tail


@torch.no_grad()
def _follows(tail: Callable[[Tensor], Tensor], feature: Tensor, expected: Tensor) -> bool:
    try:
        found = tail(feature)
    except RuntimeError:  # another width
        return False
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def _measure_answers(networks: Networks, task: Task) -> None:
    """Find out how many classes each network answers over, and whether student and teacher answer on one grid."""
    models = {"": networks.student, **{name: teacher.model for name, teacher in networks.teachers.items()}}
    answers = {"": networks.taps.student_answer, **networks.taps.teacher_answer}
    grids = {}
    for name, model in models.items():
        answer = answers[name]
        own_answer = answers[""]
        if answer and own_answer and type(answer) is not type(own_answer):
            raise ValueError(
                f"the student answers {own_answer.place}, teacher {name!r} {answer.place}, and these cannot be "
                "compared: use losses on stages (mtkd_ssr, pkd, cwd, fgd)"
            )
        shown = answer.read(model, networks.shown[name], networks.shown[""]) if answer else None
        if not name and shown is not None:
            networks.answer = tuple(shown.shape)
        count = task.num_classes(model, shown)
        compared = not name or shown is not None or networks.plan.teacher_exits.get(name)
        if count is not None and compared:
            networks.num_classes[name] = count
        if shown is not None and shown.ndim == 3:
            grids[name] = tuple(shown.shape[1:])
    for name, grid in grids.items():
        if "" in grids and grid != grids[""]:
            raise ValueError(
                f"the student answers at {grids[''][0]} places over {grids[''][1]} classes, teacher {name!r} at "
                f"{grid[0]} over {grid[1]}: losses on dense answers need equal strides, anchors and classes; use "
                "losses on stages"
            )


def check_pixels(teachers: Mapping[str, Teacher]) -> None:
    """Refuse teachers that see another size than the student, where losses compare pixels.

    Raises:
        ValueError: There is one.
    """
    for name, teacher in teachers.items():
        if teacher.input_size:
            raise ValueError(
                f"teacher {name!r}: input_size resizes the batch, and losses on regions compare pixels; leave it out"
            )


def check_classes(networks: Networks, task: Task) -> None:
    """Compare the numbers of classes of networks whose answers are compared.

    Raises:
        ValueError: They differ.
    """
    own = networks.num_classes.get("")
    for name in networks.teachers:
        theirs = networks.num_classes.get(name)
        if own is not None and theirs is not None and own != theirs:
            raise ValueError(
                f"the student answers over {own} classes, teacher {name!r} over {theirs}: losses on responses need one "
                f"class list; take a teacher of the same classes, or only {task.free_losses}"
            )
