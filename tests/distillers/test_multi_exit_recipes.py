"""MSKD and BYOT in the Distiller: who learns from whom, and who does not."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.config import Config

from kd_mm.apis.recipes import compose

from .conftest import build, classifier, losses_of, recipe


@pytest.mark.parametrize(("name", "branches"), [("mskd", {"1", "2"}), ("mskd_final", set())])
def test_mskd(name: str, branches: set[str]) -> None:
    model = build(recipe=recipe(name)).train()
    teacher = model.teachers["teacher"]
    assert set(teacher.exits) == branches
    before = copy.deepcopy((teacher.model.state_dict(), teacher.exits.state_dict()))
    losses = losses_of(model)
    total, _ = model.parse_losses(losses)
    expected = losses["loss_aux"] + losses["loss_srd"] + losses.get("loss_student", losses.get("loss"))
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(losses["loss_srd"], 0.5 * losses["srd"])
    heads = {i: list(model.objective.exits[i].parameters()) for i in ("1", "2")}
    # The term of one exit reaches its own head and the trunk, no other head and nothing of the teacher.
    loss = model.losses["srd"]
    loss.stages = (1,)
    (term,) = torch.autograd.grad(losses_of(model)["loss_srd"], [heads["2"][-1]], allow_unused=True)
    assert not term.any()
    total.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad is None for p in (*teacher.model.parameters(), *teacher.exits.parameters()))
    for state, now in zip(before, (teacher.model.state_dict(), teacher.exits.state_dict()), strict=True):
        assert all(torch.equal(value, now[key]) for key, value in state.items())


def test_byot_needs_no_teacher_and_moves_no_target() -> None:
    model = build(recipe=recipe("byot"), teacher=None).train()
    assert not model.teachers
    losses = losses_of(model)
    assert {"loss_aux", "loss_review", "loss_exit_hint", "exit_hint.stage1", "exit_hint.stage2"} <= set(losses)
    torch.testing.assert_close(losses["loss_exit_hint"], 0.03 * losses["exit_hint"])
    grads = torch.autograd.grad(
        losses["loss_exit_hint"] + losses["loss_review"],
        list(model.student.head.parameters()),
        allow_unused=True,
        retain_graph=True,
    )
    deepest = torch.autograd.grad(
        losses["loss_exit_hint"], list(model.student.backbone.layer3.parameters()), allow_unused=True, retain_graph=True
    )
    assert all(grad is None or not grad.any() for grad in (*grads, *deepest))
    fc = model.objective.exits["1"].fc
    assert torch.autograd.grad(losses["loss_exit_hint"], [fc.weight], allow_unused=True, retain_graph=True) == (None,)
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_byot_is_composed_without_a_teacher_and_others_are_not() -> None:
    plain = Config({"model": classifier()})
    assert compose(plain, "byot", None, None).model.teacher is None
    with pytest.raises(ValueError, match="--distiller mskd needs --teacher CONFIG"):
        compose(plain, "mskd", None, None)
