"""OFD. Public values: mdistiller, float64."""

import pytest
import torch
from torch import Tensor, nn

from kd_mm.losses import Observation
from kd_mm.losses.ofd import negative_mean, partial_distance

from ..helpers.losses import MARGINS, ofd
from ..helpers.waves import wave
from .test_maps import LARGE, SMALL, WIDE


def norm(weight: list[float], bias: list[float]) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(len(weight))
    layer.weight.data.copy_(torch.tensor(weight))
    layer.bias.data.copy_(torch.tensor(bias))
    return layer


def test_margins_agree_with_public_code_and_with_random_numbers() -> None:
    layer = norm([1.0, -0.5, 2.0, 0.1, 0.3], [0.0, 0.4, -1.0, 0.5, -0.2])
    torch.testing.assert_close(negative_mean(layer), torch.tensor(MARGINS))
    values = torch.randn(400_000, 5, generator=torch.Generator().manual_seed(0)) * layer.weight.detach() + layer.bias
    for channel in (0, 1, 2, 4):
        below = values[:, channel][values[:, channel] < 0]
        assert float(below.mean()) == pytest.approx(MARGINS[channel], abs=0.01)
    margins = negative_mean(norm([0.0, 0.0, 0.0], [-1.0, 0.0, 1.0]))
    torch.testing.assert_close(margins, torch.tensor([-1.0, 0.0, 0.0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("teacher", "expected"), [(WIDE, 198.50077988304213), (LARGE, 136.48090852027644)])
def test_partial_distance_agrees_with_public_code(teacher: Tensor, expected: float) -> None:
    student = wave(2, 5, 4, 4, pace=0.8, size=2.0)
    assert float(partial_distance(student, teacher, torch.tensor(MARGINS))) == pytest.approx(expected, rel=1e-9)


def test_partial_distance_by_hand() -> None:
    # One channel, margin -1: a positive target always counts, a negative one only from above.
    teacher = torch.tensor([2.0, -0.5, -3.0, -3.0]).view(1, 1, 2, 2)
    student = torch.tensor([0.0, 0.5, -4.0, 1.0]).view(1, 1, 2, 2)
    assert float(partial_distance(student, teacher, torch.tensor([-1.0]))) == 4.0 + 1.0 + 0.0 + 4.0


def test_each_shallower_stage_counts_half() -> None:
    loss = ofd(3)
    for i in (2, 3):
        loss.connectors[f"stage{i}"].load_state_dict(loss.connectors["stage1"].state_dict())
    student = Observation(features=dict.fromkeys((1, 2, 3), SMALL))
    terms = loss.terms(student, Observation(taps={"tap": WIDE}))
    assert list(terms) == ["stage1", "stage2", "stage3"]
    expected = partial_distance(loss.connectors["stage1"](SMALL), WIDE, torch.tensor(MARGINS))
    for i, divisor in enumerate((4, 2, 1), 1):
        torch.testing.assert_close(terms[f"stage{i}"], expected / divisor)
