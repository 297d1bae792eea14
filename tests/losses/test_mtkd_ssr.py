"""The losses of MTKD-SSR against numbers worked out by hand (see the formulas in the docstrings of the losses)."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from kd_mm.losses import CrossStageReviewLoss, ExitTaskLoss, KDLoss, StageChannelLoss, StageResponseLoss
from kd_mm.losses.functional import bernoulli_divergence, kl_divergence
from kd_mm.losses.observation import Observation

LN3, LN7 = math.log(3), math.log(7)


def rows(*logits: list[float]) -> dict[int, torch.Tensor]:
    """Stage logits from plain rows, stage 1 first."""
    return {i: torch.tensor([row], dtype=torch.float64) for i, row in enumerate(logits, 1)}


def seen(responses: dict[int, torch.Tensor], **more: object) -> Observation:
    return Observation(stage_logits=responses, logits=responses[max(responses)], **more)


def maps(*channel_means: list[float]) -> dict[int, torch.Tensor]:
    """2x2 maps whose channel means are given and whose pixels differ."""
    pattern = torch.tensor([[-1.0, 3.0], [-3.0, 1.0]], dtype=torch.float64)
    return {
        i: torch.stack([mean + pattern * (c + 1) for c, mean in enumerate(means)])[None]
        for i, means in enumerate(channel_means, 1)
    }


def pooled(features: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    return {i: feature.mean(dim=(2, 3)) for i, feature in features.items()}


def test_kl_divergence_value_and_shift_invariance() -> None:
    student = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    teacher = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
    for shift_student, shift_teacher in [(0, 0), (0, 5), (-7, 0)]:
        value = kl_divergence(student + shift_student, teacher + shift_teacher, 2.0)
        assert float(value) == pytest.approx(0.123962, abs=1e-6)


def test_kl_divergence_gradient_is_the_softened_difference() -> None:
    student = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 7, dtype=torch.float64)
    kl_divergence(student, teacher, 3.0).backward()
    expected = 3.0 * (F.softmax(student / 3, 1) - F.softmax(teacher / 3, 1)) / 4
    torch.testing.assert_close(student.grad, expected.detach(), atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.065406), (2.0, 0.072682)])
def test_bernoulli_divergence(temperature: float, expected: float) -> None:
    teacher, student = torch.tensor([[LN3, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert float(bernoulli_divergence(student, teacher, temperature)) == pytest.approx(expected, abs=1e-6)
    mask = torch.tensor([[0.0, 1.0]])
    assert float(bernoulli_divergence(student, teacher, temperature, mask)) == 0.0


@pytest.mark.parametrize(
    ("student", "teacher", "reduction", "expected"),
    [
        (maps([1, 1]), maps([2, 1]), "sum", 0.5),
        (maps([1, 1], [0, 0, 3]), maps([2, 1], [0, 0, 0]), "sum", 3.5),
        (maps([1, 1], [0, 0, 3]), maps([2, 1], [0, 0, 0]), "mean", 1.75),
        ({1: 2 * maps([1, 1])[1]}, {1: 2 * maps([2, 1])[1]}, "sum", 2.0),
    ],
)
def test_stage_channel_loss(student: dict, teacher: dict, reduction: str, expected: float) -> None:
    loss = StageChannelLoss(stage_reduction=reduction)
    value = loss(Observation(adapted=student), Observation(pooled=pooled(teacher)))
    assert float(value) == pytest.approx(expected, abs=1e-9)


def test_stage_channel_loss_knows_no_places_and_no_common_channel_order() -> None:
    student, teacher = torch.randn(3, 5, 4, 4, dtype=torch.float64), torch.randn(3, 5, 6, 6, dtype=torch.float64)
    loss = StageChannelLoss()

    def value(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(loss(Observation(adapted={1: a}), Observation(pooled=pooled({1: b}))))

    base = value(student, teacher)
    shuffled = student.flatten(2)[:, :, torch.randperm(16)].view_as(student)
    order = torch.randperm(5)
    assert value(shuffled, teacher) == pytest.approx(base, rel=1e-12)
    assert value(student[:, order], teacher[:, order]) == pytest.approx(base, rel=1e-12)
    assert value(student[:, order], teacher) != pytest.approx(base, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"descriptor": "gap_l2"}, ((3 / 5 - 1) ** 2 + (4 / 5) ** 2) / 2),
        (
            {"descriptor": "se"},
            ((1 / (1 + math.exp(-3)) - 1 / (1 + math.exp(-1))) ** 2 + (1 / (1 + math.exp(-4)) - 0.5) ** 2) / 2,
        ),
        ({"distance": "l1"}, 3.0),
        ({"distance": "kl", "temperature": 1.0}, None),
    ],
)
def test_stage_channel_descriptors_and_distances(options: dict, expected: float | None) -> None:
    student, teacher = maps([3, 4]), maps([1, 0])
    value = float(StageChannelLoss(**options)(Observation(adapted=student), Observation(pooled=pooled(teacher))))
    if expected is None:
        p, q = [math.e / (1 + math.e), 1 / (1 + math.e)], [1 / (1 + math.e), math.e / (1 + math.e)]
        expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert value == pytest.approx(expected, abs=1e-9)


def test_stage_response_loss() -> None:
    student, teacher = seen(rows([1, 1, 0], [2, 0, 0])), seen(rows([2, 1, 0], [0, 0, 0]))
    assert float(StageResponseLoss(temperature=2.0)(student, teacher)) == pytest.approx(0.601959, abs=1e-6)
    without_last = StageResponseLoss(temperature=2.0, include_last=False)
    assert float(without_last(student, teacher)) == pytest.approx(0.123962, abs=1e-6)
    weighted = StageResponseLoss(temperature=2.0, stage_weights=[2.0, 0.0])
    assert float(weighted(student, teacher)) == pytest.approx(2 * 0.123962, abs=1e-6)
    final = StageResponseLoss(temperature=2.0, target="final")
    expected = kl_divergence(student.stage_logits[1], teacher.logits, 2.0) + kl_divergence(
        student.logits, teacher.logits, 2.0
    )
    assert float(final(student, teacher)) == pytest.approx(float(expected), abs=1e-9)
    assert "teacher.stage_logits" not in final.requires


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
def test_review(options: dict, expected: float) -> None:
    student = seen(rows([0, 0], [LN3, 0], [0, LN7]))
    loss = CrossStageReviewLoss(**{"temperature": 1.0, **options})
    assert float(loss(student)) == pytest.approx(expected, abs=1e-6)


def test_review_is_zero_for_equal_answers_and_for_one_stage() -> None:
    same = seen(rows([1, 2, 3], [6, 7, 8], [0, 1, 2]))
    assert float(CrossStageReviewLoss()(same)) == pytest.approx(0.0, abs=1e-12)
    assert float(CrossStageReviewLoss()(seen(rows([1, 2, 3])))) == 0.0


def test_review_leaves_its_target_alone() -> None:
    logits = {i: z.requires_grad_() for i, z in rows([0, 0], [LN3, 0], [0, LN7]).items()}
    CrossStageReviewLoss(temperature=1.0)(seen(logits)).backward()
    assert logits[3].grad is None
    assert logits[1].grad.abs().sum() > 0
    assert logits[2].grad.abs().sum() > 0
    free = {i: z.detach().requires_grad_() for i, z in logits.items()}
    CrossStageReviewLoss(temperature=1.0, detach_target=False)(seen(free)).backward()
    assert free[3].grad.abs().sum() > 0


def test_total_of_the_specification_example() -> None:
    student = seen(rows([0, 0], [LN3, 0]), targets=torch.tensor([0]))
    teacher = seen(rows([LN3, 0], [LN7, 0]))
    aux = ExitTaskLoss()
    aux.task_loss = F.cross_entropy
    values = {
        "task": F.cross_entropy(student.logits, student.targets),
        "aux": aux(student),
        "srd": StageResponseLoss(temperature=1.0)(student, teacher),
        "review": CrossStageReviewLoss(temperature=1.0)(student),
    }
    expected = {"task": 0.287682, "aux": 0.693147, "srd": 0.179050, "review": 0.130812}
    assert {k: float(v) for k, v in values.items()} == pytest.approx(expected, abs=1e-6)
    total = values["task"] + values["aux"] + 6 * 0.5 + values["srd"] + 0.3 * values["review"]
    assert float(total) == pytest.approx(4.199123, abs=1e-6)


def test_one_stage_srd_is_hintons_kd() -> None:
    z_s, z_t = torch.randn(5, 4), torch.randn(5, 4)
    student, teacher = seen({1: z_s}), seen({1: z_t})
    assert torch.equal(StageResponseLoss()(student, teacher), KDLoss()(student, teacher))


def test_class_order_is_irrelevant() -> None:
    order = torch.randperm(6)
    z = {i: torch.randn(3, 6, dtype=torch.float64) for i in (1, 2, 3)}
    t = {i: torch.randn(3, 6, dtype=torch.float64) for i in (1, 2, 3)}
    for loss in (StageResponseLoss(), CrossStageReviewLoss()):
        value = loss(seen(z), seen(t))
        permuted = loss(seen({i: x[:, order] for i, x in z.items()}), seen({i: x[:, order] for i, x in t.items()}))
        assert float(value) == pytest.approx(float(permuted), abs=1e-12)


def test_batch_mean() -> None:
    z = {i: torch.randn(8, 6, dtype=torch.float64) for i in (1, 2)}
    t = {i: torch.randn(8, 6, dtype=torch.float64) for i in (1, 2)}
    f = {1: torch.randn(8, 5, 3, 3, dtype=torch.float64)}
    g = {1: torch.randn(8, 5, 3, 3, dtype=torch.float64)}
    for loss in (StageResponseLoss(), CrossStageReviewLoss(), StageChannelLoss(), KDLoss()):

        def value(part: slice, loss=loss) -> float:
            def of(m: dict) -> dict:
                return {i: x[part] for i, x in m.items()}

            student = seen(of(z), adapted=of(f))
            return float(loss(student, seen(of(t), pooled=pooled(of(g)))))

        assert value(slice(None)) == pytest.approx((value(slice(0, 4)) + value(slice(4, 8))) / 2, abs=1e-9)


@pytest.mark.parametrize(
    "loss",
    [
        KDLoss(temperature=3.0),
        KDLoss(temperature=2.0, multilabel=True),
        StageResponseLoss(temperature=2.0),
        StageResponseLoss(target="final", multilabel=True),
        CrossStageReviewLoss(temperature=2.0, detach_target=False),
        CrossStageReviewLoss(direction="ensemble", detach_target=False),
        CrossStageReviewLoss(direction="bidirectional", pairs="all_pairs", detach_target=False, multilabel=True),
        StageChannelLoss(),
        StageChannelLoss(descriptor="gap_l2"),
        StageChannelLoss(descriptor="se", distance="l1"),
        StageChannelLoss(distance="kl", temperature=2.0),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_gradcheck(loss: torch.nn.Module) -> None:
    torch.manual_seed(0)
    z = [torch.randn(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    f = torch.randn(2, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    teacher = seen(
        {i: torch.randn(2, 4, dtype=torch.float64) for i in (1, 2, 3)},
        pooled={1: torch.randn(2, 4, dtype=torch.float64)},
    )

    def function(z1: torch.Tensor, z2: torch.Tensor, z3: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        student = {1: z1, 2: z2, 3: z3}
        return loss(seen(student, adapted={1: f}), teacher)

    assert gradcheck(function, (*z, f))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "loss",
    [KDLoss(), StageResponseLoss(), CrossStageReviewLoss(), StageChannelLoss()],
    ids=lambda x: type(x).__name__,
)
def test_half_precision_with_extreme_logits_is_finite_and_exact(loss: torch.nn.Module, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    z = {i: (torch.randn(4, 10) * 1e4).to(dtype).requires_grad_() for i in (1, 2)}
    t = {i: (torch.randn(4, 10) * 1e4).to(dtype) for i in (1, 2)}
    f = {1: (torch.randn(4, 3, 5, 5) * 1e4).to(dtype).requires_grad_()}
    g = {1: torch.randn(4, 3, 5, 5).to(dtype)}

    def up(m: dict) -> dict:
        return {i: x.double() for i, x in m.items()}

    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(seen(z, adapted=f), seen(t, pooled=pooled(g)))
    exact = loss(seen(up(z), adapted=up(f)), seen(up(t), pooled=pooled(up(g))))
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert float(value) == pytest.approx(float(exact), rel=1e-4)
    slopes = torch.autograd.grad(value, [*z.values(), *f.values()], allow_unused=True)
    assert all(slope.isfinite().all() for slope in slopes if slope is not None)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: CrossStageReviewLoss(direction="deep"), "deep_to_shallow"),
        (lambda: StageChannelLoss(descriptor="gem"), "gap_l2"),
        (lambda: StageResponseLoss(target="last"), "same_stage"),
        (lambda: StageResponseLoss(stage_reduction="none"), "mean"),
    ],
)
def test_unknown_options_name_the_choices(build, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        build()
