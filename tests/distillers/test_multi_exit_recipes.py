"""MSKD and BYOT in the Distiller: who learns from whom, and who does not."""

import torch

from .conftest import build, losses_of, recipe


def test_a_term_of_one_exit_reaches_no_other_head() -> None:
    model = build(recipe=recipe("mskd", **{"losses.srd.stages": [1]})).train()
    losses_of(model)["loss_srd"].backward()
    reached = {
        i
        for i, each in model.objective.exits.items()
        if any(p.grad is not None and p.grad.any() for p in each.parameters())
    }
    assert reached == {"1"}


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
