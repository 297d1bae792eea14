"""ReviewKD. Public values: mdistiller, float64."""

import pytest
import torch

from kd_mm.losses import Observation, ReviewKDLoss
from kd_mm.losses.reviewkd import hierarchical_context

from ..helpers.losses import context, reviewkd
from ..helpers.waves import wave

WIDTHS = ((3, 5), (4, 6))


def test_hierarchical_context_agrees_with_public_code() -> None:
    for size, expected in (
        (8, 0.7173714263463068),
        (4, 0.6388087869687445),
        (2, 0.8030781329443034),
        (1, 0.8188925008083887),
    ):
        student, teacher = wave(2, 5, size, size, pace=0.8), wave(2, 5, size, size, pace=1.7)
        assert float(hierarchical_context(student, teacher)) == pytest.approx(expected, abs=1e-12)


def two_stages() -> tuple[Observation, Observation]:
    student = Observation(features={1: wave(2, 3, 8, 8, pace=0.9), 2: wave(2, 4, 4, 4, pace=1.1)})
    return student, Observation(features={1: wave(2, 5, 8, 8, pace=1.7), 2: wave(2, 6, 2, 2, pace=1.3)})


def test_agrees_with_public_code() -> None:
    terms = reviewkd(*WIDTHS).terms(*two_stages())
    expected = {"stage1": 0.6151166455998632, "stage2": 0.4953448433778595, "pooled": 0.30958559759287785}
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, abs=1e-9)


def test_fuses_from_deep_to_shallow() -> None:
    student, teacher = two_stages()
    for feature in student.features.values():
        feature.requires_grad_()
    terms = reviewkd(*WIDTHS, pooled=False).terms(student, teacher)
    assert list(terms) == ["stage1", "stage2"]
    # The shallow term reads the deep stage, not the other way round.
    assert torch.autograd.grad(terms["stage1"], student.features[2], retain_graph=True)[0].any()
    assert torch.autograd.grad(terms["stage2"], student.features[1], allow_unused=True) == (None,)


def test_width_is_that_of_the_deepest_stage_up_to_a_limit() -> None:
    loss = ReviewKDLoss(max_channels=8, stages=[1, 3])
    loss.setup(context((3, 5), (4, 6), (32, 7)))
    assert list(loss.blocks) == ["stage1", "stage3", "pooled"]
    assert loss.blocks["stage1"].reduce[0].weight.shape == (8, 3, 1, 1)
    assert loss.blocks["pooled"].attend is None
