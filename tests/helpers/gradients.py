"""Compare gradients of an operator with central differences of its numpy reference."""

from collections.abc import Callable, Sequence

import numpy as np
import torch


def check_value_and_gradients(
    operator: Callable[..., torch.Tensor],
    reference: Callable[..., np.ndarray],
    arrays: Sequence[np.ndarray],
) -> None:
    """Compare values, and directional derivatives by each array, in float64."""
    rng, step = np.random.default_rng(0), 1e-6
    tensors = [torch.from_numpy(array.copy()).requires_grad_() for array in arrays]
    output = operator(*tensors)
    expected = reference(*arrays)
    np.testing.assert_allclose(output.detach().numpy(), expected, rtol=1e-9, atol=1e-9)
    cotangent = rng.normal(size=expected.shape)
    grads = torch.autograd.grad(output, tensors, torch.from_numpy(cotangent))
    for index, grad in enumerate(grads):
        assert grad.abs().sum() > 0
        for _ in range(2):
            direction = rng.normal(size=arrays[index].shape)
            sides = []
            for sign in (1, -1):
                moved = list(arrays)
                moved[index] = arrays[index] + sign * step * direction
                sides.append((reference(*moved) * cotangent).sum())
            slope = (sides[0] - sides[1]) / (2 * step)
            np.testing.assert_allclose((grad.numpy() * direction).sum(), slope, rtol=1e-5, atol=1e-6)
