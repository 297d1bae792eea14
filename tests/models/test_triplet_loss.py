"""Triplet loss on the embeddings of a batch: by hand, by loops, by finite differences, in extreme ranges."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.models import TripletLoss

#: Two identities with two images each, in the plane.
POINTS = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0], [6.0, 8.0]])
LABELS = torch.tensor([0, 0, 1, 1])


def random_batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 5, generator=generator, dtype=dtype), torch.arange(12) % 4


def test_triplet_loss_by_hand() -> None:
    # Anchor: farthest positive - nearest negative. 0: 5 - 2; 1: 5 - sqrt(13); 2: sqrt(72) - 2; 3: sqrt(72) - 5.
    gaps = [3.0, 5 - math.sqrt(13), math.sqrt(72) - 2, math.sqrt(72) - 5]
    hard, soft = sum(gaps) / 4 + 0.3, sum(math.log1p(math.exp(gap)) for gap in gaps) / 4
    assert float(TripletLoss(margin=0.3)(POINTS, LABELS)) == pytest.approx(hard, rel=1e-6)
    assert float(TripletLoss(margin=None)(POINTS, LABELS)) == pytest.approx(soft, rel=1e-6)
    assert float(TripletLoss(margin=0.3, loss_weight=2.0)(POINTS, LABELS)) == pytest.approx(2 * hard, rel=1e-6)
    assert float(TripletLoss()(torch.tensor([[0.0], [0.1], [9.0], [9.1]]), LABELS)) == 0.0


def test_triplet_loss_equals_a_loop_over_anchors() -> None:
    with pytest.raises(ValueError, match="margin=-1: give a distance of 0 or more"):
        TripletLoss(margin=-1)
    for margin in (0.3, None):
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
    for loss in (TripletLoss(), TripletLoss(None)):
        for single in (torch.arange(4), torch.zeros(4, dtype=torch.long)):
            leaf = POINTS.clone().requires_grad_(True)
            value = loss(leaf, single)
            (grad,) = torch.autograd.grad(value, leaf)
            assert float(value) == 0.0
            assert float(grad.abs().sum()) == 0.0


def test_finite_differences_and_equal_or_zero_embeddings() -> None:
    points, labels = random_batch()
    for loss in (TripletLoss(5.0), TripletLoss(None)):
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, labels), points.clone().requires_grad_(True))
    for points in (torch.ones(4, 3), torch.zeros(4, 3)):
        for loss in (TripletLoss(), TripletLoss(None)):
            leaf = points.clone().requires_grad_()
            (grad,) = torch.autograd.grad(loss(leaf, LABELS), leaf)
            assert torch.isfinite(grad).all()


def test_half_precision_and_autocast_only_round_the_input() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        points, labels = random_batch(torch.float32)
        for scale in (1e-2, 1.0, 3e4):
            low = (scale * points.clamp(-2, 2)).to(dtype).requires_grad_(True)
            for loss in (TripletLoss(), TripletLoss(None)):
                with torch.autocast("cpu", torch.bfloat16):
                    value = loss(low, labels)
                assert value.dtype == torch.float32
                torch.testing.assert_close(value, loss(low.detach().float(), labels))
                (grad,) = torch.autograd.grad(value, low)
                assert torch.isfinite(grad).all()
