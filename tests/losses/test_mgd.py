"""MGD. Public values: the formula of yzd-v/MGD, computed here by NumPy."""

import numpy as np
import pytest
import torch

from kd_mm.losses import MGDLoss

from ..helpers.losses import context, mgd, of_maps
from ..helpers.waves import wave


def convolve(feature: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return the convolution of maps ``(B, C, H, W)`` with a kernel of odd size and equal padding."""
    pad = weight.shape[-1] // 2
    padded = np.pad(feature, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height, width = feature.shape[2:]
    result = np.zeros((len(feature), len(weight), height, width)) + bias[:, None, None]
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            window = padded[:, :, row : row + height, column : column + width]
            result += np.einsum("bchw,oc->bohw", window, weight[:, :, row, column])
    return result


@pytest.mark.parametrize("channels", [3, 5], ids=["aligned", "equal widths"])
def test_agrees_with_the_public_formula(channels: int) -> None:
    loss = mgd(channels, 5, reduction="sum")
    student, teacher = wave(2, channels, 4, 6, pace=0.9), wave(2, 5, 4, 6, pace=1.7)
    torch.manual_seed(3)
    value = float(loss(*of_maps(student, teacher)))
    torch.manual_seed(3)
    mask = (torch.rand(2, 1, 4, 6) >= 0.65).numpy()
    assert mask.any()
    assert not mask.all()
    weights = {name: parameter.detach().numpy() for name, parameter in loss.blocks["stage1"].named_parameters()}
    feature = student.numpy()
    if channels == 3:
        feature = convolve(feature, weights["align.weight"], weights["align.bias"])
    feature = np.maximum(convolve(feature * mask, weights["generate.0.weight"], weights["generate.0.bias"]), 0)
    feature = convolve(feature, weights["generate.2.weight"], weights["generate.2.bias"])
    squares = ((feature - teacher.numpy()) ** 2).sum()
    assert value == pytest.approx(squares / 2, rel=1e-9)
    loss.reduction = "relative"
    torch.manual_seed(3)
    assert float(loss(*of_maps(student, teacher))) == pytest.approx(squares / (teacher**2).sum().item(), rel=1e-9)


def test_a_copying_generator_by_hand() -> None:
    loss = mgd(2, 2, mask_ratio=0.0)
    for k in (0, 2):
        torch.nn.init.dirac_(loss.blocks["stage1"]["generate"][k].weight)
        torch.nn.init.zeros_(loss.blocks["stage1"]["generate"][k].bias)
    student = torch.tensor([[[[1.0, -2.0]], [[3.0, 0.0]]]]).double()
    teacher = torch.tensor([[[[0.0, 1.0]], [[5.0, 0.0]]]]).double()
    # The ReLU takes the -2 away: (1 + 1 + 4 + 0) / (1 + 25).
    assert float(loss(*of_maps(student, teacher))) == pytest.approx(6 / 26)


def test_the_mask_has_its_share_and_differs_from_step_to_step() -> None:
    loss = MGDLoss(mask_ratio=0.65)
    loss.setup(context((1, 1)))
    for k in (0, 2):
        torch.nn.init.dirac_(loss.blocks["stage1"]["generate"][k].weight)
        torch.nn.init.zeros_(loss.blocks["stage1"]["generate"][k].bias)
    torch.manual_seed(0)
    maps = of_maps(torch.ones(4, 1, 100, 100), torch.ones(4, 1, 100, 100))
    values = [float(loss(*maps)) for _ in range(2)]
    assert values == pytest.approx([0.65, 0.65], abs=0.02)
    assert values[0] != values[1]
