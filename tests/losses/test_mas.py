"""Stable excitation: worked numbers and invariants; public values and Distillers are in test_mag."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from kd_mm.losses import MASLoss
from kd_mm.losses.functional import kl_divergence

from ..distillers.conftest import build, recipe
from ..helpers.losses import codes, mas
from ..helpers.waves import wave
from .test_mag import STUDENT, TARGET, TEACHER, row, value


def test_worked_total() -> None:
    target = MASLoss().stable(row(3, 0), [row(0, 0), row(0, 3)])
    torch.testing.assert_close(target, row(1, 1))
    student = row(4 * math.log(3), 0)
    divergence = float(kl_divergence(student, target, 4.0))
    assert divergence == pytest.approx(2.301457, abs=1e-6)
    error = float(F.cross_entropy(student, torch.tensor([0])))
    assert 0.2 * error + 0.8 * divergence + 0.523248 + 9.493872 == pytest.approx(11.860739, abs=2e-6)


def test_target_is_the_mean_of_three_sets_of_logits() -> None:
    decoded = codes().decode(codes().encode(TARGET))
    mean = (TEACHER + decoded["low"] + decoded["high"]) / 3
    assert float(value(mas())) == pytest.approx(float(kl_divergence(STUDENT, mean, 4.0)), abs=1e-12)


@pytest.mark.parametrize("space", ["logit", "prob"])
def test_order_does_not_matter_and_equal_logits_remain(space: str) -> None:
    loss = MASLoss(stable_space=space)
    a, b, c = (wave(4, 5, pace=pace) for pace in (0.4, 0.9, 1.3))
    torch.testing.assert_close(loss.stable(a, [b, c]), loss.stable(c, [a, b]))
    same = loss.stable(a, [a, a])
    assert float(kl_divergence(STUDENT, same, 4.0)) == pytest.approx(float(kl_divergence(STUDENT, a, 4.0)), abs=1e-12)


def test_average_of_probabilities_with_other_shares() -> None:
    logits = [wave(4, 5, pace=pace) for pace in (0.4, 0.9, 1.3)]
    shares = (0.5, 0.5, 0.0)
    mean = MASLoss(stable_space="prob", stable_weights=shares).stable(logits[0], logits[1:])
    expected = sum(w * (z / 4).softmax(1) for w, z in zip(shares, logits, strict=True))
    torch.testing.assert_close((mean / 4).softmax(1), expected)


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="must be three shares of 1"):
        MASLoss(stable_weights=(1, 1, 1))
    with pytest.raises(ValueError, match="choose one of 'logit'"):
        MASLoss(stable_space="mean")
    with pytest.raises(ValueError, match=r"backbone.stem gives .*name another"):
        build(recipe=recipe("mas", **{"losses.stable.teacher_tap": "backbone.stem"}))
