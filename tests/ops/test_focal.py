"""Focal losses against loops in float64."""

import numpy as np
import pytest
import torch
from mmcv.ops import sigmoid_focal_loss, softmax_focal_loss

from ..helpers import ops_reference as reference
from ..helpers.gradients import check_value_and_gradients

CLASS_WEIGHT = np.array([0.5, 2.0, 1.5, 0.25])


@pytest.mark.parametrize("weight", [None, CLASS_WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize(("gamma", "alpha", "reduction"), [(2.0, 0.25, "none"), (0.0, 0.5, "mean"), (1.5, 0.8, "sum")])
def test_sigmoid_focal_loss(gamma: float, alpha: float, reduction: str, weight: np.ndarray | None) -> None:
    target = np.array([0, 3, 2, 4, 1, 0])  # class 4 of 4 is the background
    tensor_weight = None if weight is None else torch.from_numpy(weight)

    def expected(x: np.ndarray) -> np.ndarray:
        values = reference.sigmoid_focal_loss(x, target, gamma, alpha, weight)
        return np.asarray({"none": values, "mean": values.sum() / 6, "sum": values.sum()}[reduction])

    check_value_and_gradients(
        lambda x: sigmoid_focal_loss(x, torch.from_numpy(target), gamma, alpha, tensor_weight, reduction),
        expected,
        [np.random.default_rng(0).normal(scale=2, size=(6, 4))],
    )


def test_sigmoid_focal_loss_of_large_logits_is_bounded() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, "none")
    # The logarithm is clamped at the smallest normal float32.
    bound = -np.log(np.finfo(np.float32).tiny)
    np.testing.assert_allclose(loss.detach().numpy(), [[0.75 * bound, 0.25 * bound]], rtol=1e-6)
    loss.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    half = sigmoid_focal_loss(logits.detach().half(), torch.tensor([1]), 2.0, 0.25, None, "none")
    assert half.dtype == torch.float16
    np.testing.assert_allclose(half.float().numpy(), loss.detach().numpy(), rtol=1e-3)


@pytest.mark.parametrize("weight", [None, CLASS_WEIGHT], ids=["plain", "weighted"])
def test_softmax_focal_loss(weight: np.ndarray | None) -> None:
    target = np.array([0, 3, 2, 1, -1, 0])
    tensor_weight = None if weight is None else torch.from_numpy(weight)
    for gamma, alpha in ((2.0, 0.25), (0.0, 1.0)):
        check_value_and_gradients(
            lambda x, g=gamma, a=alpha: softmax_focal_loss(x, torch.from_numpy(target), g, a, tensor_weight, "sum"),
            lambda x, g=gamma, a=alpha: np.asarray(reference.softmax_focal_loss(x, target, g, a, weight).sum()),
            [np.random.default_rng(1).normal(scale=2, size=(6, 4))],
        )
