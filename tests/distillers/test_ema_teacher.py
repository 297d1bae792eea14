"""A teacher that is the student's moving average: what it is, what it leaves alone, what refuses it."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from kd_mm.apis.recipes import compose
from kd_mm.distillers import Distiller, EMATeacher
from kd_mm.hooks import EMATeacherHook
from kd_mm.losses import Progress

from ..helpers.errors import assert_refused
from ..helpers.waves import wave
from .conftest import batch, build, classifier, recipe


def started(recipe_name: str = "ema_teacher", **changes: Any) -> Distiller:
    """A Distiller in the middle of its run whose teacher has begun to follow."""
    model = build(recipe=recipe(recipe_name, **changes), teacher=None)
    model.progress = Progress(1, 10, 2, 20)
    model.teachers["ema"].start(model.student, model.objective.exits)
    return model


def trained(model: Distiller, steps: int = 3) -> Distiller:
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
    for seed in range(steps):
        model.train_step(batch(seed=seed), wrapper)
        model.teachers["ema"].update(model.student, model.objective.exits)
    return model


class Point(nn.Module):
    """A network of three numbers."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)
        self.register_buffer("mean", values.clone())
        self.register_buffer("count", torch.tensor(7))


#: The third number after 7 updates with momentum 0.8, by update_ema_variables() of CuriousAI/mean-teacher.
KNOWN = (0.048885798938012204, -0.04411424412652704, 0.21207844419926766, 0.05244677979724433)
LAST = 0.05590433181937635


def test_it_moves_as_in_public_code() -> None:
    student = Point(wave(3, pace=1.0))
    teacher = EMATeacher("ema", student, momentum=0.8)
    teacher.start(student, nn.ModuleDict())
    recorded = []
    for step in range(1, 8):
        student.values.data = wave(3, pace=1.0 + step)
        student.mean = wave(3, pace=1.0 + step)
        student.count += 1
        teacher.update(student, nn.ModuleDict())
        recorded.append(float(teacher.model.values[2]))
        torch.testing.assert_close(teacher.model.mean, teacher.model.values.data)
    assert recorded[:4] == pytest.approx(KNOWN, abs=1e-12)
    assert recorded[-1] == pytest.approx(LAST, abs=1e-12)
    assert (int(teacher.model.count), teacher.updates) == (14, 7)


def test_without_warmup_and_with_the_latest_statistics() -> None:
    student = Point(torch.zeros(3))
    teacher = EMATeacher("ema", student, momentum=0.75, warmup=False, average_buffers=False)
    teacher.start(student, nn.ModuleDict())
    student.values.data, student.mean = torch.full((3,), 8.0), torch.full((3,), 4.0)
    for expected in (2.0, 3.5):
        teacher.update(student, nn.ModuleDict())
        assert teacher.model.values.tolist() == [expected] * 3
        assert teacher.model.mean.tolist() == [4.0] * 3


def test_it_stands_outside_and_the_student_is_alone_in_the_state() -> None:
    model = trained(started())
    teacher = model.teachers["ema"]
    inside = {id(module) for module in model.modules()}
    assert not any(id(module) in inside for module in teacher.model.modules())
    assert set(model.state_dict()) == set(model.student.state_dict())
    assert copy.deepcopy(model).teachers["ema"] is teacher
    assert all(p.grad is None and not p.requires_grad for p in teacher.model.parameters())
    assert not any(module.training for module in teacher.model.modules())
    moved = dict(teacher.model.state_dict())
    assert all(not torch.equal(moved[name], p) for name, p in model.student.named_parameters())
    model.double()
    assert next(teacher.model.parameters()).dtype == torch.float64


def test_its_exits_are_the_average_of_the_students() -> None:
    ema = {"ema": {"type": "kd_mm.EMATeacher", "momentum": 0.5}}
    losses = {f"losses.{name}.teacher": "ema" for name in ("scd", "srd")}
    model = trained(started("mtkd_ssr", teachers=ema, **losses), steps=2)
    teacher = model.teachers["ema"]
    assert set(teacher.exits) == {"1", "2"}
    assert not any(p.requires_grad for p in teacher.exits.parameters())
    before = copy.deepcopy(teacher.exits.state_dict())
    teacher.update(model.student, model.objective.exits)
    for name, now in teacher.exits.state_dict().items():
        if now.is_floating_point():
            expected = (before[name] + model.objective.exits.state_dict()[name]) / 2
            torch.testing.assert_close(now, expected)


def test_a_step_that_the_loss_scaler_skips_does_not_move_it() -> None:
    model = started()
    hook, optimizer = EMATeacherHook(), torch.optim.SGD(model.parameters(), lr=0.1)
    runner: Any = SimpleNamespace(model=model, optim_wrapper=OptimWrapper(optimizer))
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for bad, updates in ((True, 0), (False, 1), (True, 1)):
        loss = model(**model.data_preprocessor(batch(), True), mode="loss")["loss_student"]
        optimizer.zero_grad()
        scaler.scale(loss * (float("inf") if bad else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        hook.after_train_iter(runner, 0)
        assert model.teachers["ema"].updates == updates


def test_it_is_composed_without_a_teacher_and_beside_one() -> None:
    plain = Config({"model": classifier()})
    assert compose(plain, "ema_teacher", None, None).model.teacher is None
    assert_refused(r"--distiller kd\+ema_teacher needs --teacher CONFIG", compose, plain, "kd+ema_teacher", None, None)
    joined = compose(plain, "kd+ema_teacher", "a.py", "a.pth").model.recipe.to_dict()
    model = build(recipe=joined)
    assert set(model.teachers) == {"ema", "teacher"}
    assert model.losses["kd"].teacher_names == ("teacher",)
    assert model.recipe.student_loss_weight == 0.1


def test_stages_are_named_once() -> None:
    losses = {"hint": {"type": "kd_mm.FitNetsLoss", "teacher": "ema"}}
    changes = {"losses": losses, "teachers": {"ema": {"type": "kd_mm.EMATeacher"}}}
    model = build(recipe=changes, teacher=None, stages={"student": ["backbone.layer2", "backbone.layer3"]})
    assert [stage.tap for _, stage in model.stage_pairs["ema"]] == ["backbone.layer2", "backbone.layer3"]


def test_what_does_not_fit_is_refused() -> None:
    assert_refused(r"momentum=1.0 must be at least 0 and below 1", started, **{"teachers.ema.momentum": 1.0})
    with pytest.raises(ValueError, match=r"teacher 'ema' has no option 'moment', did you mean 'momentum'"):
        started(**{"teachers.ema.moment": 0.9})
    with pytest.raises(ValueError, match=r"teacher 'ema' of the config has the name of one that the recipe brings"):
        build(recipe=recipe("ema_teacher"), teacher={"ema": {"config": classifier(), "random_weights": True}})
    with pytest.raises(ValueError, match=r"MAGLoss prepares something on a teacher that stays as it is"):
        started(**{"losses.codes": {"type": "kd_mm.MAGLoss", "teacher": "ema"}})
    assert_refused("the config has none", started, **{"losses.ema.teacher": None})
    model = build(recipe=recipe("ema_teacher"), teacher=None)
    model.progress = Progress(1, 10, 2, 20)
    with pytest.raises(RuntimeError, match=r"register the hook kd_mm.EMATeacherHook"):
        model(**model.data_preprocessor(batch(), True), mode="loss")
