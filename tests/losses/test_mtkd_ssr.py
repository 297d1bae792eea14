"""The losses of MTKD-SSR and MSKD against numbers worked out by hand."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses import (
    CrossStageReviewLoss,
    DISTLoss,
    DKDLoss,
    KDLoss,
    LossContext,
    Observation,
    StageLogits,
    StageResponseLoss,
)
from kd_mm.losses.functional import kl_divergence
from kd_mm.utils.costs import count_operators

from ..helpers.losses import exit_task, of_logits, of_maps, of_stages, scd
from ..helpers.waves import wave

LN3, LN7 = math.log(3), math.log(7)
LABEL = torch.tensor([0])


def means(*stages: list[float]) -> dict[int, Tensor]:
    """Return the channel means of one image by stage."""
    return {i: torch.tensor([values], dtype=torch.float64) for i, values in enumerate(stages, 1)}


# -- stage channels ------------------------------------------------------------------------------------------------


def channel_value(student: dict[int, Tensor], teacher: dict[int, Tensor], **options: object) -> float:
    loss = scd(*(pooled.shape[1] for pooled in student.values()), **options)
    return float(loss(Observation(pooled=student), Observation(pooled=teacher)))


@pytest.mark.parametrize(
    ("student", "teacher", "options", "expected"),
    [
        (means([1, 1]), means([2, 1]), {}, 0.5),
        (means([1, 1], [0, 0, 3]), means([2, 1], [0, 0, 0]), {}, 3.5),
        (means([1, 1], [0, 0, 3]), means([2, 1], [0, 0, 0]), {"stage_reduction": "mean"}, 1.75),
        (means([2, 2]), means([4, 2]), {}, 2.0),
        (means([3, 4]), means([1, 0]), {"descriptor": "gap_l2"}, ((3 / 5 - 1) ** 2 + (4 / 5) ** 2) / 2),
        (
            means([3, 4]),
            means([1, 0]),
            {"descriptor": "se"},
            ((1 / (1 + math.exp(-3)) - 1 / (1 + math.exp(-1))) ** 2 + (1 / (1 + math.exp(-4)) - 0.5) ** 2) / 2,
        ),
        (means([3, 4]), means([1, 0]), {"distance": "l1"}, 3.0),
        # KL of (e, 1) / (1 + e) from (1, e) / (1 + e).
        (means([3, 4]), means([1, 0]), {"distance": "kl"}, (math.e - 1) / (math.e + 1)),
    ],
)
def test_channels_by_hand(student: dict, teacher: dict, options: dict, expected: float) -> None:
    assert channel_value(student, teacher, **options) == pytest.approx(expected, abs=1e-9)


def test_channels_depend_on_a_common_order_of_channels_alone() -> None:
    student, teacher, order = wave(3, 5, pace=0.9), wave(3, 5, pace=1.7), [3, 1, 0, 4, 2]
    base = channel_value({1: student}, {1: teacher})
    assert channel_value({1: student[:, order]}, {1: teacher[:, order]}) == pytest.approx(base, rel=1e-12)
    assert channel_value({1: student[:, order]}, {1: teacher}) != pytest.approx(base, rel=1e-6)


def test_gaussians_of_channels_by_hand_and_as_in_public_code() -> None:
    # Means 2 and 5, unbiased variances 2 and 8.
    one, other = (torch.tensor(values, dtype=torch.float64).view(1, 1, 1, 2) for values in ([1, 3], [3, 7]))
    expected = 9 + (math.sqrt(2 + 1e-5) - math.sqrt(8 + 1e-5)) ** 2
    assert float(scd(1, descriptor="gaussian")(*of_maps(one, other))) == pytest.approx(expected, abs=1e-9)
    # WKD's code: the sum over the channels of mean and deviation, mean over the batch; ours is the channels' mean.
    student, teacher = wave(3, 5, 4, 4, pace=0.9), wave(3, 5, 8, 8, pace=1.7)
    distance = torch.zeros((), dtype=torch.float64)
    for statistic in (lambda x: x.mean((2, 3)), lambda x: torch.sqrt(x.var((2, 3)) + 1e-5)):
        distance += F.mse_loss(statistic(student), statistic(teacher), reduction="sum") / 3
    assert float(scd(5, descriptor="gaussian")(*of_maps(student, teacher))) == pytest.approx(float(distance) / 5)


# -- stage logits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.601959),
        ({"include_last": False}, 0.123962),
        ({"stage_weights": [2.0, 0.0]}, 2 * 0.123962),
        ({"stage_reduction": "mean"}, 0.601959 / 2),
    ],
)
def test_stage_logits_by_hand(options: dict, expected: float) -> None:
    student, teacher = of_stages([1, 1, 0], [2, 0, 0]), of_stages([2, 1, 0], [0, 0, 0])
    assert float(StageResponseLoss(temperature=2.0, **options)(student, teacher)) == pytest.approx(expected, abs=1e-6)


def test_every_stage_may_follow_the_teachers_own_logits() -> None:
    student, teacher = of_stages([1, 1, 0], [2, 0, 0]), of_stages([2, 1, 0], [0, 0, 0])
    final = StageResponseLoss(temperature=2.0, target="final")
    expected = sum(kl_divergence(z, teacher.logits, 2.0) for z in student.stage_logits.values())
    assert float(final(student, teacher)) == pytest.approx(float(expected), abs=1e-9)
    assert "teacher.stage_logits" not in final.requires


def test_classes_that_do_not_count_are_left_out() -> None:
    student, teacher = (
        of_stages(*(wave(2, 4, pace=pace, size=2.0) for pace in paces)) for paces in ((0.9, 1.3), (1.7, 1.1))
    )
    loss, mask = StageResponseLoss(multilabel=True), torch.tensor([[1.0, 0, 1, 1], [1, 1, 0, 0]])
    masked = of_stages(*student.stage_logits.values(), valid_classes=mask)
    changed = of_stages(*(z + 5 * (1 - mask) for z in student.stage_logits.values()), valid_classes=mask)
    assert float(loss(masked, teacher)) == pytest.approx(float(loss(changed, teacher)), abs=1e-12)
    assert float(loss(masked, teacher)) < float(loss(student, teacher))


def test_one_stage_is_hintons_kd() -> None:
    for target in ("same_stage", "final"):
        pair = of_logits(wave(5, 4, pace=0.9), wave(5, 4, pace=1.7))
        assert torch.equal(StageResponseLoss(target=target)(*pair), KDLoss()(*pair))


def test_other_forms_are_the_losses_of_these_names_at_every_stage() -> None:
    for options, single in (
        ({"form": "dkd"}, DKDLoss()),
        ({"form": "dkd", "form_weights": (2.0, 3.0), "standardize": True}, DKDLoss(alpha=2, beta=3, standardize=True)),
        ({"form": "dist"}, DISTLoss(temperature=4.0)),
        ({"form": "dist", "form_weights": [0.5, 2.0]}, DISTLoss(temperature=4.0, beta=0.5, gamma=2.0)),
        ({"form": "standardized"}, KDLoss(standardize=True)),
    ):
        labels = torch.tensor([0, 5, 2, 3])
        z, t = ([wave(4, 6, pace=pace, size=2.0) for pace in paces] for paces in ((0.9, 1.3, 0.5), (1.7, 2.1, 1.1)))
        terms = StageResponseLoss(**options).terms(of_stages(*z, targets=labels), of_stages(*t))
        expected = [float(single(*of_logits(*pair, labels))) for pair in zip(z, t, strict=True)]
        assert terms.values.tolist() == pytest.approx(expected, abs=1e-9)


def test_forms_that_need_one_class_refuse_multi_label_logits() -> None:
    for form in ("dkd", "dist"):
        with pytest.raises(ValueError, match=f"form='{form}' needs classes that exclude each other"):
            StageResponseLoss(form=form).setup(LossContext(multilabel=True))


def test_order_of_the_classes_does_not_matter() -> None:
    order = [4, 2, 0, 5, 1, 3]
    z, t = ([wave(3, 6, pace=pace) for pace in paces] for paces in ((0.9, 1.3, 0.5), (1.7, 2.1, 1.1)))
    for loss in (StageResponseLoss(), CrossStageReviewLoss()):
        permuted = loss(of_stages(*(x[:, order] for x in z)), of_stages(*(x[:, order] for x in t)))
        assert float(loss(of_stages(*z), of_stages(*t))) == pytest.approx(float(permuted), abs=1e-12)


# -- the exits' task loss and totals -------------------------------------------------------------------------------


def test_exits_of_their_own_learn_the_label() -> None:
    student = of_stages([0, 0], [LN3, 0], [LN7, 0], targets=LABEL)
    loss = exit_task()
    assert loss.stage_numbers(3) == (1, 2)
    assert float(loss(student)) == pytest.approx(math.log(2) + math.log(4 / 3), abs=1e-6)
    assert float(exit_task(include_last=True)(student)) == pytest.approx(1.114361, abs=1e-6)
    assert float(loss(of_stages([LN7, 0], targets=LABEL))) == 0  # its exit would be the network's own classifier
    with pytest.raises(ValueError, match=r"^ExitTaskLoss: 2 stage_weights for stages \[1, 2, 3\]$"):
        exit_task(include_last=True, stage_weights=[1.0, 1.0])(student)


def test_total_of_mtkd_ssr() -> None:
    student, teacher = of_stages([0, 0], [LN3, 0], targets=LABEL), of_stages([LN3, 0], [LN7, 0])
    values = {
        "task": F.cross_entropy(student.logits, LABEL),
        "aux": exit_task()(student),
        "srd": StageResponseLoss(temperature=1.0)(student, teacher),
        "review": CrossStageReviewLoss(temperature=1.0)(student),
    }
    expected = {"task": 0.287682, "aux": 0.693147, "srd": 0.179050, "review": 0.130812}
    assert {k: float(v) for k, v in values.items()} == pytest.approx(expected, abs=1e-6)
    total = values["task"] + values["aux"] + 6 * 0.5 + values["srd"] + 0.3 * values["review"]
    assert float(total) == pytest.approx(4.199123, abs=1e-6)


def test_number_of_operators_does_not_grow_with_the_stages() -> None:
    for build in (
        StageResponseLoss,
        lambda: StageResponseLoss(standardize=True, target="final"),
        lambda: StageResponseLoss(multilabel=True, include_last=False),
        CrossStageReviewLoss,
        lambda: CrossStageReviewLoss(pairs="to_final", detach_target=False),
        lambda: CrossStageReviewLoss(direction="ensemble"),
        lambda: CrossStageReviewLoss(direction="deeper_mean_teacher", samples="agreement"),
        lambda: CrossStageReviewLoss(direction="deeper_mean", samples="right_and_surer"),
        lambda: StageResponseLoss(form="dkd"),
        lambda: StageResponseLoss(form="dist"),
        exit_task,
        lambda: exit_task(include_last=True),
    ):

        def operators(stages: int, build: Any = build) -> int:
            loss = build()
            logits = wave(stages, 5, 4, pace=0.9).requires_grad_()
            numbers = tuple(range(1, stages + 1))
            student = Observation(stage_logits=StageLogits(numbers, logits), targets=torch.arange(5) % 4)
            target = wave(stages, 5, 4, pace=1.7)
            teacher = Observation(stage_logits=StageLogits(numbers, target), logits=target[-1])
            return count_operators(lambda: loss(student, teacher).backward())

        assert operators(2) <= operators(3) == operators(4) == operators(7)  # one pair of stages needs no sum


def test_number_of_operators_of_the_channel_loss_does_not_grow_with_the_stages() -> None:
    for options in ({}, {"descriptor": "se", "distance": "l1"}, {"descriptor": "gaussian"}):

        def operators(*widths: int, options: Any = options) -> int:
            loss = scd(*widths, **options)
            fields = [wave(3, sum(widths), pace=pace).requires_grad_(pace < 1) for pace in (0.9, 0.7, 1.7, 1.3)]
            pooled, deviations, *teacher = (dict(enumerate(field.split(widths, dim=1), 1)) for field in fields)
            pair = (
                Observation(pooled=pooled, deviations=deviations),
                Observation(pooled=teacher[0], deviations=teacher[1]),
            )
            return count_operators(lambda: loss(*pair).backward())

        assert operators(4, 6) == operators(4, 6, 8, 10)


# -- MSKD: every exit learns the label and follows a teacher --------------------------------------------------------

MSKD = of_stages([0, 0], [LN3, 0], [LN7, 0], targets=LABEL)


def mskd(alpha: float, target: str, student: Observation, teacher: Observation, **options: object) -> Tensor:
    """Return the method's loss as its recipe composes it."""
    task = exit_task(include_last=True, **options)
    follow = StageResponseLoss(temperature=1.0, target=target, **options)
    return (1 - alpha) * task(student) + alpha * follow(student, teacher)


def test_mskd_by_hand() -> None:
    final, branches = of_stages([0, 0], [LN3, 0], [LN7, 0]), of_stages([LN3, 0], [LN3, 0], [LN7, 0])
    follow = StageResponseLoss(temperature=1.0, target="final")
    assert float(follow(MSKD, final)) == pytest.approx(0.364615, abs=1e-6)
    assert float(StageResponseLoss(temperature=1.0)(MSKD, branches)) == pytest.approx(0.130812, abs=1e-6)
    for reduction, expected in (("sum", 0.739488), ("mean", 0.246496)):
        assert float(mskd(0.5, "final", MSKD, final, stage_reduction=reduction)) == pytest.approx(expected, abs=1e-6)
    equal = of_stages([LN7, 0], [LN7, 0], [LN7, 0])
    assert torch.equal(mskd(0.5, "final", MSKD, equal), mskd(0.5, "same_stage", MSKD, equal))


def test_mskd_of_one_exit_is_hintons_distillation_and_does_not_depend_on_constants() -> None:
    for target in ("final", "same_stage"):
        student, teacher = of_stages([0.3, -1.0], targets=LABEL), of_stages([LN7, 0.0])
        expected = 0.1 * F.cross_entropy(student.logits, LABEL) + 0.9 * kl_divergence(
            student.logits, teacher.logits, 1.0
        )
        torch.testing.assert_close(mskd(0.9, target, student, teacher), expected)
        torch.testing.assert_close(mskd(0.9, target, student, of_stages([LN7 + 5, 5.0])), expected)


def test_mskd_with_weights_of_the_exits() -> None:
    """Alpha 0.2, 0.5, 0.9 with exit weights 1, 2, 3: omega (1 - alpha) on the label, omega alpha on the teacher."""
    task = exit_task(include_last=True, stage_weights=[0.8, 1.0, 0.3])
    follow = StageResponseLoss(temperature=1.0, target="final", stage_weights=[0.2, 1.0, 2.7])
    value = task(MSKD) + follow(MSKD, of_stages([0, 0], [LN3, 0], [LN7, 0]))
    p = torch.tensor([0.875, 0.125])
    divergences = [float((p * (p / torch.tensor(q)).log()).sum()) for q in ([0.5, 0.5], [0.75, 0.25], [0.875, 0.125])]
    entropies = [math.log(2), math.log(4 / 3), math.log(8 / 7)]
    triples = zip((1, 2, 3), (0.2, 0.5, 0.9), entropies, divergences, strict=True)
    assert float(value) == pytest.approx(sum(w * ((1 - a) * ce + a * kd) for w, a, ce, kd in triples), abs=1e-6)
