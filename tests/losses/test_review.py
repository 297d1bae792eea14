"""Reviews across the stages of one network, and BYOT's hint, by hand."""

import math

import pytest
import torch

from kd_mm.losses import BYOTHintLoss, CrossStageReviewLoss, LossContext, Observation
from kd_mm.losses.functional import kl_divergence

from ..helpers.losses import of_stages

LN3, LN5, LN7 = math.log(3), math.log(5), math.log(7)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1.003010),
        ({"pairs": "to_final"}, 1.188575),
        ({"pairs": "all_pairs"}, 1.319387),
        ({"direction": "shallow_to_deep"}, 1.174470),
        ({"direction": "ensemble"}, 0.527366),
        ({"temperature": 2.0}, 1.212968),
        ({"direction": "bidirectional"}, (1.003010 + 1.174470) / 2),
    ],
)
def test_review_by_hand(options: dict, expected: float) -> None:
    loss = CrossStageReviewLoss(**{"temperature": 1.0, **options})
    assert float(loss(of_stages([0, 0], [LN3, 0], [0, LN7]))) == pytest.approx(expected, abs=1e-6)


def test_review_trains_the_learning_stages_alone() -> None:
    stages = [torch.tensor([row], dtype=torch.float64) for row in ([0, 0], [LN3, 0], [0, LN7])]
    for detach, expected in ((True, [True, True, False]), (False, [True, True, True])):
        logits = [z.clone().requires_grad_() for z in stages]
        CrossStageReviewLoss(temperature=1.0, detach_target=detach)(of_stages(*logits)).backward()
        assert [z.grad is not None and bool(z.grad.any()) for z in logits] == expected


def test_review_names_its_pairs_and_is_zero_for_equal_logits_and_for_one_stage() -> None:
    stages = of_stages([0, 0], [LN3, 0], [0, LN7])
    assert list(CrossStageReviewLoss().terms(stages, Observation()).names) == ["stage2to1", "stage3to2"]
    both = CrossStageReviewLoss(direction="bidirectional", pairs="to_final").terms(stages, Observation())
    assert set(both.names) == {"stage3to1", "stage3to2", "stage1to3", "stage2to3"}
    same = of_stages([1, 2, 3], [6, 7, 8], [0, 1, 2])
    assert float(CrossStageReviewLoss()(same)) == pytest.approx(0.0, abs=1e-12)
    assert float(CrossStageReviewLoss()(of_stages([1, 2, 3]))) == 0.0


# -- targets from means, and samples that count -----------------------------------------------------------------------


def divergence(target: list[float], learner: list[float]) -> float:
    """Return the KL divergence of two classes, given by their odds."""
    p, q = ([value / sum(odds) for value in odds] for odds in (target, learner))
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize(
    ("direction", "targets"),
    [
        ("deeper_mean", ([3 ** (1 / 2), 7 ** (1 / 2)], [1, 7])),
        ("deeper_mean_teacher", ([(3 * 5) ** (1 / 3), 7 ** (1 / 3)], [5 ** (1 / 2), 7 ** (1 / 2)])),
    ],
)
def test_mean_of_the_deeper_stages_by_hand(direction: str, targets: tuple[list[float], list[float]]) -> None:
    student, teacher = of_stages([0, 0], [LN3, 0], [0, LN7]), of_stages([9, 9], [LN5, 0])
    loss = CrossStageReviewLoss(temperature=1.0, direction=direction)
    terms = loss.terms(student, teacher)
    expected = [divergence(targets[0], [1, 1]), divergence(targets[1], [3, 1])]
    assert list(terms.names) == ["stage1", "stage2"]
    assert terms.values.tolist() == pytest.approx(expected, abs=1e-9)
    assert ("teacher.logits" in loss.requires) == (direction == "deeper_mean_teacher")


def test_samples_count_where_the_target_is_right_and_surer() -> None:
    # Of two stages; the label is class 0: surer and right, right and less sure, wrong, equally sure.
    learner = torch.tensor([[0.0, 0], [LN7, 0], [0, LN3], [LN3, 0]], dtype=torch.float64)
    target = torch.tensor([[LN3, 0.0], [LN3, 0], [0, LN7], [LN3, 0]], dtype=torch.float64)
    loss = CrossStageReviewLoss(temperature=2.0, samples="right_and_surer")
    labels = torch.zeros(4, dtype=torch.long)
    for targets in (labels, torch.tensor([[0.8, 0.2]] * 4)):
        value = float(loss(of_stages(learner, target, targets=targets)))
        assert value == pytest.approx(float(kl_divergence(learner[:1], target[:1], 2.0)) / 4, abs=1e-9)
    with pytest.raises(ValueError, match="one labelled class for each of the 4 rows of logits"):
        loss(of_stages(learner, target, targets=labels[:1]))


def test_samples_count_by_agreement_with_the_teacher() -> None:
    student, teacher = of_stages([0, 0], [LN3, 0]), of_stages([0, 0], [0, LN7])
    loss = CrossStageReviewLoss(temperature=1.0, samples="agreement")
    overlap = 1 / 8 + 1 / 4  # of (3/4, 1/4) and (1/8, 7/8)
    assert float(loss(student, teacher)) == pytest.approx(overlap * divergence([3, 1], [1, 1]), abs=1e-9)


def test_multi_label_logits_have_no_right_class() -> None:
    for samples in ("right_and_surer", "agreement"):
        with pytest.raises(ValueError, match=f"samples='{samples}' needs one class for each row of stage logits"):
            CrossStageReviewLoss(samples=samples).setup(LossContext(multilabel=True))


def test_by_hand() -> None:
    deep = torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]]])  # spatial means 2 and 1
    student = Observation(features={1: deep, 2: deep}, embeddings={1: torch.tensor([[3.0, -1.0]])})
    assert float(BYOTHintLoss()(student)) == 1.0 + 4.0
    assert BYOTHintLoss(stages=[1]).stage_numbers(3) == (1, 3)
    narrow = Observation(features=student.features, embeddings={1: torch.zeros(1, 3)})
    with pytest.raises(ValueError, match="exit of stage 1 ends with 3 channels, the last stage has 2"):
        BYOTHintLoss()(narrow)
