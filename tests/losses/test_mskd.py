"""MSKD against numbers worked out by hand: exits [0,0], [ln3,0], [ln7,0], teacher [ln7,0], class 0, T 1."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from kd_mm.losses import ExitTaskLoss, Loss, StageResponseLoss
from kd_mm.losses.functional import kl_divergence
from kd_mm.losses.observation import Observation

LN3, LN7 = math.log(3), math.log(7)
EXITS = ([0.0, 0.0], [LN3, 0.0], [LN7, 0.0])


def rows(*logits: list[float]) -> dict[int, Tensor]:
    return {i: torch.tensor([row], dtype=torch.float64) for i, row in enumerate(logits, 1)}


def seen(responses: dict[int, Tensor], **more: Any) -> Observation:
    return Observation(stage_logits=responses, logits=responses[max(responses)], **more)


def exit_task(**options: Any) -> ExitTaskLoss:
    loss = ExitTaskLoss(include_last=True, **options)
    loss.task_loss = F.cross_entropy
    return loss


def student(*logits: list[float]) -> Observation:
    return seen(rows(*(logits or EXITS)), targets=torch.tensor([0]))


def total(alpha: float, target: str, ours: Observation, theirs: Observation, **options: Any) -> Tensor:
    """The method's loss as its recipe composes it."""
    task, follow = exit_task(**options), StageResponseLoss(temperature=1.0, target=target, **options)
    return (1 - alpha) * task(ours) + alpha * follow(ours, theirs)


def test_every_exit_follows_the_final_answer() -> None:
    final = seen(rows(*EXITS[:2], [LN7, 0.0]))
    value = StageResponseLoss(temperature=1.0, target="final")(student(), final)
    assert float(value) == pytest.approx(0.364615, abs=1e-6)


def test_every_exit_learns_the_label() -> None:
    assert float(exit_task()(student())) == pytest.approx(1.114361, abs=1e-6)


@pytest.mark.parametrize(("reduction", "expected"), [("sum", 0.739488), ("mean", 0.246496)])
def test_the_whole_loss(reduction: str, expected: float) -> None:
    value = total(0.5, "final", student(), seen(rows(*EXITS)), stage_reduction=reduction)
    assert float(value) == pytest.approx(expected, abs=1e-6)


def test_each_exit_follows_its_branch() -> None:
    branches = seen(rows([LN3, 0.0], [LN3, 0.0], [LN7, 0.0]))
    value = StageResponseLoss(temperature=1.0, target="same_stage")(student(), branches)
    assert float(value) == pytest.approx(0.130812, abs=1e-6)


def test_equal_branches_make_both_modes_one() -> None:
    branches = seen(rows([LN7, 0.0], [LN7, 0.0], [LN7, 0.0]))
    assert torch.equal(total(0.5, "final", student(), branches), total(0.5, "same_stage", student(), branches))


@pytest.mark.parametrize("target", ["final", "same_stage"])
def test_one_exit_is_hintons_distillation(target: str) -> None:
    ours, theirs = student([0.3, -1.0]), seen(rows([LN7, 0.0]))
    expected = 0.1 * F.cross_entropy(ours.logits, ours.targets) + 0.9 * kl_divergence(ours.logits, theirs.logits, 1.0)
    torch.testing.assert_close(total(0.9, target, ours, theirs), expected)


def test_order_of_the_exits_does_not_matter_where_the_targets_move_along() -> None:
    ours, theirs = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(3, 4, 5, dtype=torch.float64)
    labels = torch.tensor([0, 4, 2, 1])

    def value(order: list[int]) -> Tensor:
        mine = seen({i: ours[k] for i, k in enumerate(order, 1)}, targets=labels)
        return total(0.5, "same_stage", mine, seen({i: theirs[k] for i, k in enumerate(order, 1)}))

    torch.testing.assert_close(value([0, 1, 2]), value([2, 0, 1]))


@pytest.mark.parametrize("target", ["final", "same_stage"])
def test_constants_on_the_teachers_logits_do_not_matter(target: str) -> None:
    theirs, shift = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(4, 1, dtype=torch.float64)
    ours = seen(dict(enumerate(torch.randn(3, 4, 5, dtype=torch.float64), 1)), targets=torch.tensor([0, 4, 2, 1]))
    plain, moved = (seen(dict(enumerate(given, 1))) for given in (theirs, theirs + shift))
    torch.testing.assert_close(total(0.5, target, ours, plain), total(0.5, target, ours, moved))


def test_weights_of_the_exits() -> None:
    """Alpha 0.2, 0.5, 0.9 with exit weights 1, 2, 3: omega (1 - alpha) on the label, omega alpha on the teacher."""
    task = exit_task(stage_weights=[0.8, 1.0, 0.3])
    follow = StageResponseLoss(temperature=1.0, target="final", stage_weights=[0.2, 1.0, 2.7])
    value = task(student()) + follow(student(), seen(rows(*EXITS)))
    p = torch.tensor([0.875, 0.125])
    divergences = [float((p * (p / torch.tensor(q)).log()).sum()) for q in ([0.5, 0.5], [0.75, 0.25], [0.875, 0.125])]
    entropies = [math.log(2), math.log(4 / 3), math.log(8 / 7)]
    triples = zip((1, 2, 3), (0.2, 0.5, 0.9), entropies, divergences, strict=True)
    assert float(value) == pytest.approx(sum(w * ((1 - a) * ce + a * kd) for w, a, ce, kd in triples), abs=1e-6)


def test_too_few_weights_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"^ExitTaskLoss: 2 stage_weights for stages \[1, 2, 3\]$"):
        exit_task(stage_weights=[1.0, 1.0])(student())


def test_without_the_last_exit_only_those_of_their_own_count() -> None:
    loss = ExitTaskLoss()
    loss.task_loss = F.cross_entropy
    assert loss.stage_numbers(3) == (1, 2)
    assert float(loss(student())) == pytest.approx(math.log(2) + math.log(4 / 3), abs=1e-6)


def test_gradients_in_double_precision() -> None:
    labels = torch.tensor([0, 2])
    theirs = [torch.randn(2, 3, dtype=torch.float64) for _ in range(3)]

    def value(*logits: Tensor) -> Tensor:
        teacher = seen(dict(enumerate(theirs, 1)))
        return total(0.5, "same_stage", seen(dict(enumerate(logits, 1)), targets=labels), teacher)

    assert gradcheck(value, tuple(torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)))


@pytest.mark.parametrize("loss", [exit_task(), StageResponseLoss(target="final")], ids=["task", "follow"])
def test_extreme_logits_in_bfloat16_stay_finite(loss: Loss) -> None:
    logits = torch.tensor([[3e4, -3e4, 0.0], [-3e4, 3e4, 1.0]], dtype=torch.bfloat16)
    ours = {i: (sign * logits).requires_grad_() for i, sign in enumerate((-1, 1), 1)}
    value = loss(seen(ours, targets=torch.tensor([0, 1])), seen({1: logits, 2: logits}))
    value.backward()
    assert value.isfinite()
    assert all(tensor.grad.isfinite().all() for tensor in ours.values() if tensor.grad is not None)
