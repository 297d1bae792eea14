"""PKD. Public values: MMRazor, float64."""

import numpy as np
import pytest
import torch
from torch import Tensor

from kd_mm.losses import PKDLoss

from ..helpers.losses import of_maps
from ..helpers.waves import wave

STUDENT, TEACHER = wave(2, 3, 4, 5, pace=0.9, size=2.0), wave(2, 3, 4, 5, pace=1.7) + 0.5
FIXTURE_STUDENT = torch.arange(16, dtype=torch.float64).view(2, 2, 2, 2) / 10
FIXTURE_TEACHER = torch.tensor(
    [[[[1, 0], [2, 1]], [[0, 3], [1, 1]]], [[[2, 2], [0, 1]], [[1, 0], [0, 2]]]], dtype=torch.float64
)


@pytest.mark.parametrize(
    ("student", "teacher", "resize", "expected"),
    [
        (FIXTURE_STUDENT, FIXTURE_TEACHER, "student", 0.911831),
        (STUDENT, TEACHER, "student", 0.9659171240796629),
        (STUDENT, wave(2, 3, 6, 7, pace=1.3), "student", 0.9886680827226406),
        (STUDENT, wave(2, 3, 6, 7, pace=1.3), "teacher", 0.9758718067185602),
    ],
)
def test_agrees_with_public_code(student: Tensor, teacher: Tensor, resize: str, expected: float) -> None:
    assert float(PKDLoss(resize=resize)(*of_maps(student, teacher))) == pytest.approx(expected, abs=1e-6)


def test_the_larger_map_is_averaged_down_to_the_smaller() -> None:
    fine = STUDENT.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    for pair in ((fine, TEACHER), (STUDENT, TEACHER.repeat_interleave(3, dim=3))):
        assert float(PKDLoss(resize="smaller")(*of_maps(*pair))) == pytest.approx(0.9659171240796629, abs=1e-6)


def test_is_one_minus_the_correlation_of_each_channel() -> None:
    count = STUDENT.numel() // 3
    student, teacher = (x.transpose(0, 1).reshape(3, -1).numpy() for x in (STUDENT, TEACHER))
    distance = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(student, teacher, strict=True)])
    value = PKDLoss()(*of_maps(STUDENT, TEACHER))
    assert float(value) == pytest.approx((count - 1) / count * distance, abs=1e-5)
    assert float(PKDLoss()(*of_maps(STUDENT, 40 * TEACHER - 7))) == pytest.approx(float(value), abs=1e-5)


def test_a_single_value_has_a_finite_gradient() -> None:
    student = torch.ones(1, 3, 1, 1, requires_grad=True)
    PKDLoss()(*of_maps(student, torch.rand(student.shape))).backward()
    assert torch.isfinite(student.grad).all()
