"""The gradient of each loss beside the student's own: measured right, warned of, scaled once, and exact on resume."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner import Runner
from torch import Tensor

from kd_mm.distillers import Distiller, balance

from ..helpers.digits import digits_run, run_log
from ..helpers.errors import assert_refused
from .conftest import build, losses_of, recipe, total

SHARES = {"balance": "gradnorm", "shares": {"scd": 0.5, "srd": 2.0}}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second of four steps is measured, instead of every tenth of fifty."""
    monkeypatch.setattr(balance, "STEPS", 4)
    monkeypatch.setattr(balance, "INTERVAL", 2)


def gradient(model: Distiller, loss: Tensor) -> dict[str, Tensor]:
    """The gradient on the student's parameters by a plain backward pass; those that it does not reach are left out."""
    model.zero_grad(set_to_none=True)
    loss.backward(retain_graph=True)
    return {name: p.grad.clone() for name, p in model.student.named_parameters() if p.grad is not None}


def norm(gradients: dict[str, Tensor], names: set[str]) -> float:
    return float(torch.cat([gradients[name].flatten() for name in sorted(names)]).norm())


def test_a_loss_gets_its_share_of_the_gradient_on_shared_layers(short: None) -> None:
    """The same batch in each step and no update, so that the mean of the measures is the measure."""
    model = build(recipe=recipe(**SHARES)).eval()
    model.objective.balance.start(resumed=False)
    before = losses_of(model)
    for _ in range(3):
        losses_of(model)
    after = losses_of(model)
    own = gradient(model, after["loss_student"] if "loss_student" in after else after["loss"])
    for name, share in SHARES["shares"].items():
        term = gradient(model, after[f"loss_{name}"])
        shared = set(own) & set(term)
        assert "head.fc.weight" not in shared or name == "srd"
        assert norm(term, shared) / norm(own, shared) == pytest.approx(share, rel=1e-4)
        assert torch.equal(after[name], before[name])
    assert torch.equal(after["loss_aux"], before["loss_aux"])


def test_measuring_leaves_no_trace(short: None) -> None:
    models = [build(recipe=recipe()), build(recipe=recipe())]
    models[0].objective.balance.start(resumed=False)
    for _ in range(5):
        for model in models:
            model.zero_grad()
            total(losses_of(model)).backward()
    first, second = models
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    assert list(first.state_dict()) == list(second.state_dict())
    assert not [key for key in first.state_dict() if "balance" in key]


def run(folder: Path, options: dict[str, Any], epochs: int = 3, **changes: Any) -> Runner:
    """A distillation of three steps an epoch."""
    given = {"teacher_exits.epochs": 1, "teacher_exits.milestones": [], **options}
    every = {"default_hooks.checkpoint.interval": 1, "default_hooks.checkpoint.max_keep_ckpts": -1}
    runner = digits_run(folder, "mtkd_ssr", options=given, **{"train_cfg.max_epochs": epochs, **every, **changes})
    runner.train()
    return runner


def test_scales_are_stored_and_a_resumed_run_is_the_same(short: None, tmp_path: Path) -> None:
    """The first checkpoint is from the middle of what is measured."""
    uncut = run(tmp_path / "uncut", SHARES)
    assert "balance: from now on each of these losses is scaled by: scd " in run_log(uncut)
    for epoch in (1, 2):
        start = {"load_from": str(tmp_path / "uncut" / f"epoch_{epoch}.pth"), "resume": True}
        resumed = run(tmp_path / f"from_{epoch}", SHARES, **start)
        for key, value in uncut.model.state_dict().items():
            assert torch.equal(value, resumed.model.state_dict()[key]), key


def test_losses_out_of_range_are_warned_of_with_their_option(short: None, tmp_path: Path) -> None:
    weights = {"losses.scd.loss_weight": 1e4, "losses.srd.loss_weight": 1e-6}
    log = run_log(run(tmp_path / "run", weights, epochs=2))
    warned = re.findall(r"WARNING - loss '(\w+)' .*?(its first step|falls slowly, lower|leave it out)", log)
    assert {("scd", "its first step"), ("scd", "falls slowly, lower"), ("srd", "leave it out")} <= set(warned)
    assert len(warned) == len(set(warned))
    assert "lower model.recipe.losses.scd.loss_weight (now 10000)" in log
    assert "raise model.recipe.losses.srd.loss_weight (now 1e-06)" in log
    assert log.count("first 4 steps: gradient on the student's shared layers over that of its own loss: aux ") == 1


def test_mixed_precision_measures_about_the_same(short: None, tmp_path: Path) -> None:
    scales = []
    for folder, change in (("full", {}), ("mixed", {"optim_wrapper.type": "kd_mm.Bf16OptimWrapper"})):
        measured = run(tmp_path / folder, SHARES, epochs=2, **change).model.objective.balance
        scales.append([measured.scale(name) for name in SHARES["shares"]])
    assert scales[1] == pytest.approx(scales[0], rel=0.2)


def test_wrong_shares_end_in_one_line() -> None:
    for changes, line in (
        ({"balance": "gradnorm"}, "recipe: balance='gradnorm' and shares=.* go together"),
        ({"balance": "gradnorms", "shares": {"scd": 1.0}}, "did you mean 'gradnorm'"),
        (
            {"balance": "gradnorm", "shares": {"sdc": 1.0}},
            r"shares.sdc=1.0: give a number above 0 for .*\(aux, review, sc",
        ),
        ({"balance": "gradnorm", "shares": {"scd": 0.0}}, "shares.scd=0.0: give a number above 0"),
    ):
        assert_refused(line, build, recipe=recipe(**changes))
