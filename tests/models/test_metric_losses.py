"""Losses on the embeddings of a batch: by hand, by loops, by finite differences, in extreme ranges."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.models.reid import CenterLoss, CircleLoss, TripletLoss

#: Two identities with two images each, on the plane.
POINTS = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0], [6.0, 8.0]])
LABELS = torch.tensor([0, 0, 1, 1])


def random_batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 5, generator=generator, dtype=dtype), torch.arange(12) % 4


def test_triplets_by_hand() -> None:
    # Anchor: farthest positive - nearest negative. 0: 5 - 2; 1: 5 - sqrt(13); 2: sqrt(72) - 2; 3: sqrt(72) - 5.
    gaps = [3.0, 5 - math.sqrt(13), math.sqrt(72) - 2, math.sqrt(72) - 5]
    assert float(TripletLoss(margin=0.3)(POINTS, LABELS)) == pytest.approx(sum(gaps) / 4 + 0.3, rel=1e-6)
    soft = sum(math.log1p(math.exp(gap)) for gap in gaps) / 4
    assert float(TripletLoss(margin=None)(POINTS, LABELS)) == pytest.approx(soft, rel=1e-6)
    assert float(TripletLoss(margin=0.3, loss_weight=2.0)(POINTS, LABELS)) == pytest.approx(
        2 * (sum(gaps) / 4 + 0.3), rel=1e-6
    )
    apart = torch.tensor([[0.0], [0.1], [9.0], [9.1]])
    assert float(TripletLoss()(apart, LABELS)) == 0.0


@pytest.mark.parametrize("margin", [0.3, None])
def test_triplets_equal_a_loop_over_anchors(margin: float | None) -> None:
    points, labels = random_batch()
    terms = []
    for a in range(len(points)):
        distances = (points - points[a]).norm(dim=1)
        same = labels == labels[a]
        gap = distances[same].max() - distances[~same].min()
        terms.append(F.softplus(gap) if margin is None else F.relu(gap + margin))
    torch.testing.assert_close(TripletLoss(margin)(points, labels), torch.stack(terms).mean())


def test_images_without_a_positive_or_a_negative_do_not_count() -> None:
    points, labels = torch.cat([POINTS, torch.tensor([[50.0, 0.0]])]), torch.tensor([0, 0, 1, 1, 2])
    torch.testing.assert_close(TripletLoss()(points, labels), TripletLoss()(POINTS, LABELS))
    for loss in (TripletLoss(), TripletLoss(None), CircleLoss()):
        for lonely in (torch.arange(4), torch.zeros(4, dtype=torch.long)):
            moving = POINTS.clone().requires_grad_(True)
            value = loss(moving, lonely)
            value.backward()
            assert float(value) == 0.0
            assert moving.grad is not None
            assert float(moving.grad.abs().sum()) == 0.0


def test_centres_by_hand() -> None:
    loss = CenterLoss(num_classes=3, in_channels=2, alpha=0.5, loss_weight=1.0)
    # Centres at the origin: 1/2 mean(0, 25, 4, 100).
    assert float(loss(POINTS, LABELS)) == pytest.approx(129 / 8)
    # c <- c - alpha (n c - sum) / (1 + n): sums (3, 4) and (6, 10), n = 2.
    torch.testing.assert_close(loss.centers, torch.tensor([[0.5, 2 / 3], [1.0, 5 / 3], [0.0, 0.0]]))
    before = loss.centers.clone()
    moving = POINTS.clone().requires_grad_(True)
    loss(moving, LABELS).backward()
    torch.testing.assert_close(moving.grad, (POINTS - before[LABELS]) / 4)
    torch.testing.assert_close(loss.centers[1], before[1] - 0.5 * (2 * before[1] - POINTS[2:].sum(0)) / 3)
    loss.eval()
    held = loss.centers.clone()
    loss(POINTS, LABELS)
    assert torch.equal(loss.centers, held)
    assert list(loss.state_dict()) == ["centers"]
    assert list(loss.parameters()) == []


def test_circle_loss_by_hand() -> None:
    # Unit vectors at 0, 90, 0 and 60 degrees; image 0: s_p = 0; s_n = 1 and 1/2. scale 2, margin 0.25.
    angles = torch.tensor([0.0, math.pi / 2, 0.0, math.pi / 3])
    points = 7 * torch.stack([angles.cos(), angles.sin()], dim=1)
    cosine = [[math.cos(a - b) for b in angles.tolist()] for a in angles.tolist()]

    def term(a: int, positive: int, negatives: tuple[int, int]) -> float:
        p = math.exp(-2 * max(0.0, 1.25 - cosine[a][positive]) * (cosine[a][positive] - 0.75))
        n = sum(math.exp(2 * max(0.0, cosine[a][j] + 0.25) * (cosine[a][j] - 0.25)) for j in negatives)
        return math.log1p(n * p)

    expected = (term(0, 1, (2, 3)) + term(1, 0, (2, 3)) + term(2, 3, (0, 1)) + term(3, 2, (0, 1))) / 4
    assert term(0, 1, (2, 3)) == pytest.approx(
        math.log1p((math.exp(2 * 1.25 * 0.75) + math.exp(2 * 0.75 * 0.25)) * math.exp(2 * 1.25 * 0.75))
    )
    assert float(CircleLoss(margin=0.25, scale=2.0)(points, LABELS)) == pytest.approx(expected, rel=1e-5)


def test_the_weights_of_the_circle_carry_no_gradient() -> None:
    # One positive pair at cosine s, one negative at cosine t; d/ds = -scale a_p sigmoid(...).
    points = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 1])
    value = CircleLoss(margin=0.25, scale=2.0)(points, labels)
    unit = F.normalize(points, dim=1)
    similarity = unit @ unit.T
    fixed = similarity.detach()
    by_hand = []
    for a, p, n in ((0, 1, 2), (1, 0, 2)):
        logit = 2 * (fixed[a, n] + 0.25) * (similarity[a, n] - 0.25) - 2 * (1.25 - fixed[a, p]) * (
            similarity[a, p] - 0.75
        )
        by_hand.append(F.softplus(logit))
    expected = torch.stack(by_hand).mean()
    torch.testing.assert_close(value, expected)
    (own,) = torch.autograd.grad(value, points, retain_graph=True)
    (other,) = torch.autograd.grad(expected, points)
    torch.testing.assert_close(own, other)


@pytest.mark.parametrize("margin", [5.0, None])
def test_gradients_of_triplets_by_finite_differences(margin: float | None) -> None:
    points, labels = random_batch()
    assert torch.autograd.gradcheck(lambda x: TripletLoss(margin)(x, labels), points.requires_grad_(True))


def test_gradients_of_centres_by_finite_differences() -> None:
    points, labels = random_batch()
    loss = CenterLoss(4, 5, loss_weight=1.0).double().eval()
    loss.centers.normal_()
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), points.requires_grad_(True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 3e4])
def test_half_precision_and_autocast_change_nothing_but_the_rounding_of_the_input(
    dtype: torch.dtype, scale: float
) -> None:
    points, labels = random_batch(torch.float32)
    low = (scale * points.clamp(-2, 2)).to(dtype).requires_grad_(True)
    for loss in (TripletLoss(), TripletLoss(None), CircleLoss(), CenterLoss(4, 5).eval()):
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(low, labels)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(low.detach().float(), labels))
        (slope,) = torch.autograd.grad(value, low)
        assert torch.isfinite(slope).all()


def test_equal_embeddings_have_finite_slopes() -> None:
    points = torch.ones(4, 3, requires_grad=True)
    for loss in (TripletLoss(), TripletLoss(None), CircleLoss()):
        (slope,) = torch.autograd.grad(loss(points, LABELS), points)
        assert torch.isfinite(slope).all()
    zero = torch.zeros(4, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(CircleLoss()(zero, LABELS), zero)
    assert torch.isfinite(slope).all()
